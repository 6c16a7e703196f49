import pytest
import torch

from fusseg.evaluation.scores import score


def test_scores_of_a_hand_computed_matrix():
    # Cluster 1 takes class 0 and cluster 0 class 1: 6 + 4 of 15 pixels. Unions: 9 labeled and
    # 1 more found; 6 labeled, one of them in the unmatched cluster 2, and 3 more found.
    confusion = torch.tensor([[3, 4], [6, 1], [0, 1]])
    found = score(confusion)
    assert found.matching.tolist() == [1, 0, -1]
    assert found.class_iou.tolist() == pytest.approx([6 / 10, 4 / 9])
    assert found.mean_iou == pytest.approx((6 / 10 + 4 / 9) / 2)
    assert found.pixel_accuracy == pytest.approx(10 / 15)


def test_a_class_that_no_label_has_is_left_out_of_the_mean():
    found = score(torch.tensor([[4, 0, 0], [0, 6, 0], [0, 2, 0]]))
    assert found.class_iou[:2].tolist() == pytest.approx([1.0, 6 / 8])
    assert found.class_iou[2].isnan()
    assert found.mean_iou == pytest.approx((1 + 6 / 8) / 2)


def test_by_stegos_definition_a_class_that_is_predicted_but_not_labeled_counts_zero():
    # Cluster 2 gets class 2, which no label has: IoU 1, 6 / 8 and 0.
    found = score(torch.tensor([[4, 0, 0], [0, 6, 0], [0, 2, 0]]))
    assert found.mean_iou_stego == pytest.approx((1 + 6 / 8 + 0) / 3)


def test_by_stegos_definition_a_class_that_is_neither_predicted_nor_labeled_does_not_count():
    found = score(torch.tensor([[4, 0, 0], [1, 5, 0], [0, 0, 0]]))
    assert found.mean_iou_stego == pytest.approx((4 / 5 + 5 / 6) / 2)
    assert found.mean_iou_stego == pytest.approx(found.mean_iou)


def test_by_stegos_definition_unmatched_clusters_are_one_more_class_of_zero():
    # Clusters 2 and 3 get no class; together they are one.
    confusion = torch.tensor([[6, 0], [0, 5], [1, 0], [0, 1]])
    assert score(confusion).mean_iou_stego == pytest.approx((6 / 7 + 5 / 6 + 0) / 3)
    # An unmatched cluster on no labeled pixel changes nothing.
    confusion = torch.tensor([[6, 0], [0, 5], [0, 0]])
    assert score(confusion).mean_iou_stego == 1.0


def test_a_class_that_got_no_cluster_counts_zero():
    found = score(torch.tensor([[4, 0, 1], [0, 5, 1]]))
    assert found.class_iou.tolist() == pytest.approx([4 / 5, 5 / 6, 0.0])
    assert found.mean_iou == pytest.approx((4 / 5 + 5 / 6) / 3)
    assert found.mean_iou_stego == pytest.approx(found.mean_iou)
    assert found.pixel_accuracy == pytest.approx(9 / 11)


def test_a_given_matching_is_used_as_it_is():
    confusion = torch.tensor([[5, 0], [0, 5]])
    found = score(confusion, torch.tensor([1, 0]))
    assert (found.mean_iou, found.pixel_accuracy) == (0.0, 0.0)


def test_a_given_matching_may_send_several_clusters_to_one_class():
    found = score(torch.tensor([[2, 0], [3, 1], [0, 4]]), torch.tensor([0, 0, 1]))
    assert found.class_iou.tolist() == pytest.approx([5 / 6, 4 / 5])
    assert found.pixel_accuracy == pytest.approx(9 / 10)


def test_a_perfect_segmentation_scores_one_whatever_the_order_of_the_clusters():
    found = score(torch.tensor([[0, 7, 0], [0, 0, 1], [2, 0, 0]]))
    assert (found.mean_iou, found.pixel_accuracy) == (1.0, 1.0)


def test_scores_without_a_labeled_pixel_are_refused():
    with pytest.raises(ValueError, match=r"^scores need at least one labeled pixel, got none$"):
        score(torch.zeros(2, 3, dtype=torch.int64))
