import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.evaluation.scores import UNMATCHED, match_clusters, score


@st.composite
def confusions(draw):
    """Small counts, so that many matchings tie."""
    num_clusters, num_classes = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    largest = draw(st.sampled_from([1, 3, 50, 10**8]))
    size = num_clusters * num_classes
    counts = draw(st.lists(st.integers(0, largest), min_size=size, max_size=size))
    counts[0] += 1  # scores need a pixel
    return torch.tensor(counts).reshape(num_clusters, num_classes)


@given(confusion=confusions(), data=st.data())
def test_the_order_of_clusters_changes_neither_mean_iou_nor_accuracy(confusion, data):
    order = data.draw(st.permutations(range(len(confusion))))
    first, second = score(confusion), score(confusion[torch.tensor(order)])
    assert first.pixel_accuracy == second.pixel_accuracy
    assert first.mean_iou == pytest.approx(second.mean_iou, abs=1e-9)


@given(confusion=confusions(), data=st.data())
def test_the_order_of_classes_changes_neither_mean_iou_nor_accuracy(confusion, data):
    order = data.draw(st.permutations(range(confusion.shape[1])))
    first, second = score(confusion), score(confusion[:, torch.tensor(order)])
    assert first.pixel_accuracy == second.pixel_accuracy
    assert first.mean_iou == pytest.approx(second.mean_iou, abs=1e-9)


@given(confusion=confusions())
def test_as_many_clusters_as_possible_get_a_class_of_their_own(confusion):
    matching = match_clusters(confusion)
    kept = matching[matching != UNMATCHED].tolist()
    assert len(kept) == len(set(kept)) == min(confusion.shape)
    assert len(matching) == len(confusion)


@given(confusion=confusions())
def test_scores_lie_between_zero_and_one(confusion):
    found = score(confusion)
    assert 0 <= found.mean_iou <= 1
    assert 0 < found.pixel_accuracy <= 1
    assert found.class_iou.isnan().tolist() == (confusion.sum(dim=0) == 0).tolist()


@given(confusion=confusions(), times=st.integers(2, 100))
def test_scores_depend_on_shares_of_pixels_only(confusion, times):
    first, second = score(confusion), score(times * confusion)
    assert first.pixel_accuracy == pytest.approx(second.pixel_accuracy)
    assert first.mean_iou == pytest.approx(second.mean_iou, abs=1e-9)
