import pytest
import torch

from fusseg.evaluation.scores import UNMATCHED, match_clusters, pair_iou


def test_the_matching_agrees_in_the_most_pixels():
    # Greedy would take 10 and be left with 0; the best is 9 + 8.
    assert match_clusters(torch.tensor([[10, 9], [8, 0]])).tolist() == [1, 0]


def test_clusters_without_a_class_are_unmatched():
    matching = match_clusters(torch.tensor([[0, 5], [3, 3], [7, 0]]))
    assert matching.tolist() == [1, UNMATCHED, 0]


def test_classes_may_outnumber_clusters():
    assert match_clusters(torch.tensor([[0, 5, 9], [0, 4, 0]])).tolist() == [2, 1]


# Matchings along and across the diagonal hold 4 pixels each (103 with the third cluster). Sums of
# IoU: 1/5 + 3/7 along and 1/3 + 1/3 across; 1/35 + 3/7 along and 2/36 + 1/3 across.
ACROSS = torch.tensor([[1, 2], [2, 3]])
ALONG = torch.tensor([[1, 2, 0], [2, 3, 0], [30, 0, 99]])


def test_among_matchings_of_equal_accuracy_the_largest_iou_wins():
    assert match_clusters(ACROSS).tolist() == [1, 0]
    assert match_clusters(ACROSS.flip(0)).tolist() == [0, 1]
    assert match_clusters(ALONG).tolist() == [0, 1, 2]
    assert match_clusters(ALONG.flip(0)).tolist() == [2, 1, 0]


@pytest.mark.parametrize("scale", [10, 10**9])
def test_ties_between_the_counts_of_a_large_data_set_are_broken_alike(scale):
    assert match_clusters(scale * ACROSS).tolist() == [1, 0]
    assert match_clusters(scale * ALONG).tolist() == [0, 1, 2]


def test_one_more_pixel_outweighs_any_iou():
    # Across: 4 pixels at IoU 2/7 + 2/7 = 0.57. Along: 5 pixels at 0 + 5/9 = 0.56.
    assert match_clusters(torch.tensor([[0, 2], [2, 5]])).tolist() == [0, 1]


def test_iou_of_a_pair_is_its_pixels_over_those_of_either():
    iou = pair_iou(torch.tensor([[3, 1], [0, 4]]))
    torch.testing.assert_close(
        iou, torch.tensor([[3 / 4, 1 / 8], [0.0, 4 / 5]], dtype=torch.float64)
    )


def test_iou_of_an_empty_cluster_with_an_absent_class_is_undefined():
    iou = pair_iou(torch.tensor([[2, 0], [0, 0]]))
    assert iou[0].tolist() == [1.0, 0.0]
    assert iou[1, 0] == 0.0
    assert iou[1, 1].isnan()
