import pytest
import torch

from fusseg.core.colors import palette
from fusseg.evaluation.agreement import adjusted_rand, count_pairs
from fusseg.evaluation.cluster_number import Judged, suggest_number
from fusseg.evaluation.scores import UNMATCHED
from fusseg.evaluation.stability import MatchedRegion, compare_regions
from fusseg.report.side_by_side import matched_colors


def test_pairs_are_counted_over_images():
    left = torch.tensor([[0, 0], [1, 1]])
    right = torch.tensor([[2, 2], [2, 0]])
    assert count_pairs(left, right, 2, 3).tolist() == [[0, 0, 2], [1, 0, 1]]


def test_the_index_of_four_positions_by_hand():
    # One pair of six shares a region on both sides, two of six on the left, three on the right:
    # (1 - 2 * 3 / 6) / (2.5 - 1) = 0.
    assert adjusted_rand(torch.tensor([[2, 0], [1, 1]])) == pytest.approx(0.0)


def test_renumbered_regions_are_the_same():
    assert adjusted_rand(torch.tensor([[0, 5], [7, 0]])) == 1.0
    assert adjusted_rand(torch.tensor([[9]])) == 1.0


def test_one_position_has_no_index():
    with pytest.raises(ValueError, match="at least 2 positions, got 1"):
        adjusted_rand(torch.tensor([[1, 0]]))


def test_counts_of_many_pixels_do_not_overflow():
    assert adjusted_rand(torch.tensor([[10**8, 0], [0, 10**8]])) == 1.0


def test_regions_are_matched_with_their_overlap():
    agreement = compare_regions(torch.tensor([[1, 8], [6, 0], [0, 1]]))
    assert agreement.regions == (
        MatchedRegion(0, 1, 8 / 10),
        MatchedRegion(1, 0, 6 / 7),
        MatchedRegion(2, UNMATCHED, 0.0),
    )


def test_matched_regions_share_a_color_and_others_have_their_own():
    first = palette(3)
    colors = matched_colors(first, [2, UNMATCHED, 0], 3)
    assert colors[[2, 0]].tolist() == first[[0, 2]].tolist()
    assert colors[1].tolist() not in first.tolist()


def judge(num_clusters, stability, silhouette=0.1):
    return Judged(num_clusters, stability, 0.0, silhouette, 0.5)


def test_the_largest_stable_number_is_suggested():
    found = suggest_number([judge(8, 0.79), judge(2, 0.95), judge(5, 0.8), judge(3, 0.9, 0.3)])
    assert (found.finest, found.steadiest, found.most_distinct, found.stable) == (5, 2, 3, True)


def test_without_a_stable_number_the_steadiest_is_suggested():
    found = suggest_number([judge(4, 0.4), judge(2, 0.6), judge(3, 0.6)])
    assert (found.finest, found.steadiest, found.stable) == (2, 2, False)
