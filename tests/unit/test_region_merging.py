"""Clusters merged by hand: which ones, in which order, and what joins the rest."""

import pytest
import torch

from fusseg.core.errors import FederationError
from fusseg.federation.region_merging import border_counts, merge_clusters, suggest_num_regions

# Angles of centroids in a plane, in degrees.
PLANE = (0, 10, 90, 95, 170)


def at(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def ones(number):
    return torch.ones(number, dtype=torch.int64)


@pytest.mark.parametrize(
    ("num_regions", "regions"),
    [
        (5, [0, 1, 2, 3, 4]),
        # 90 and 95 degrees are nearest, then 0 and 10.
        (4, [0, 1, 2, 2, 3]),
        (3, [0, 0, 1, 1, 2]),
        # Mean cosine of {90, 95} with 170: 0.22; with {0, 10}: 0.04.
        (2, [0, 0, 1, 1, 1]),
    ],
)
def test_the_nearest_groups_are_merged_first(num_regions, regions):
    assert merge_clusters(at(*PLANE), ones(5), num_regions).tolist() == regions


def test_the_length_of_a_centroid_does_not_count():
    longer = at(*PLANE) * torch.tensor([[1.0], [20.0], [0.01], [5.0], [3.0]])
    assert merge_clusters(longer, ones(5), 3).tolist() == [0, 0, 1, 1, 2]


def test_a_group_lies_where_most_of_its_positions_are():
    # 0 and 40 are merged first. With equal counts the group is nearer to -45 than 105 is to it;
    # with nearly all positions at 40, 105 is nearer.
    centroids = at(0, 40, 105, -45)
    assert merge_clusters(centroids, ones(4), 2).tolist() == [0, 0, 1, 0]
    heavy = torch.tensor([1, 1000, 1, 1])
    assert merge_clusters(centroids, heavy, 2).tolist() == [0, 0, 0, 1]


def test_regions_are_numbered_by_their_lowest_cluster():
    assert merge_clusters(at(90, 0, 91, 1), ones(4), 2).tolist() == [0, 1, 0, 1]


def test_of_equally_near_pairs_the_lowest_is_merged():
    square = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert merge_clusters(square, ones(4), 3).tolist() == [0, 0, 1, 2]


def test_an_empty_cluster_joins_the_nearest_region_and_moves_none():
    # The empty one at 45 degrees lies between the others, and nearer to the second.
    centroids, counts = at(45, 0, 80, 180), torch.tensor([0, 3, 3, 3])
    assert merge_clusters(centroids, counts, 3).tolist() == [1, 0, 1, 2]
    assert merge_clusters(at(40, 0, 90, 180), counts, 3).tolist() == [0, 0, 1, 2]


def test_there_are_fewer_regions_if_fewer_clusters_have_positions():
    counts = torch.tensor([4, 0, 0, 4, 0])
    assert merge_clusters(at(*PLANE), counts, 4).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 7, 0]])
def test_a_single_cluster_with_positions_cannot_be_two_regions(counts):
    with pytest.raises(FederationError, match=r"^only \d of 3 clusters have positions"):
        merge_clusters(at(0, 1, 2), torch.tensor(counts), 2)


def test_clusters_that_meet_are_merged_before_others_that_are_as_near():
    centroids = at(0, 60, 120)
    borders = torch.tensor([[0, 1, 0], [1, 0, 9], [0, 9, 0]])
    assert merge_clusters(centroids, ones(3), 2).tolist() == [0, 0, 1]
    assert merge_clusters(centroids, ones(3), 2, borders).tolist() == [0, 1, 1]
    assert merge_clusters(centroids, ones(3), 2, borders, border_weight=0.0).tolist() == [0, 0, 1]


def test_a_border_counts_as_the_share_of_all_borders_of_the_two():
    # Cosines: 0.64 for the first two, 0.5 for the others. The last two share 9 of 10: 0.5 + 0.9 w
    # against 0.64 + 0.1 w, so that they are merged from w = 0.18 on.
    centroids = torch.nn.functional.normalize(at(0, 50, 110), dim=1)
    borders = torch.tensor([[0, 1, 0], [1, 0, 9], [0, 9, 0]])

    def merged(weight):
        return merge_clusters(centroids, ones(3), 2, borders, border_weight=weight).tolist()

    assert merged(0.17) == [0, 0, 1]
    assert merged(0.19) == [0, 1, 1]


def test_sums_of_codes_make_a_scattered_cluster_far_from_all():
    # Codes of the last two scatter: their sums are short, though their centroids are nearest.
    centroids, counts = at(0, 30, 90, 100), torch.tensor([10, 10, 10, 10])
    assert merge_clusters(centroids, counts, 3).tolist() == [0, 1, 2, 2]
    sums = centroids * torch.tensor([[10.0], [10.0], [5.0], [5.0]])
    assert merge_clusters(centroids, counts, 3, sums=sums).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("degrees", "number"),
    [
        ((0, 5, 90, 95, 180, 185), 3),
        ((0, 2, 4, 6, 120, 122, 124, 240, 242), 3),
        ((0, 3, 6, 180, 183), 2),
        ((0, 4, 90, 180, 270), 4),
    ],
)
def test_the_number_of_clear_groups_is_suggested(degrees, number):
    centroids = at(*degrees)
    assert suggest_num_regions(centroids, ones(len(degrees))) == number


def test_a_suggestion_stays_within_its_bounds():
    centroids = at(0, 5, 90, 100, 180, 200)
    assert suggest_num_regions(centroids, ones(6)) == 3
    assert suggest_num_regions(centroids, ones(6), least=4) == 4
    assert suggest_num_regions(centroids, ones(6), most=2) == 2


def test_tiny_distances_do_not_suggest_that_only_copies_are_merged():
    # The two copies are merged at a distance of 0, which makes every other ratio look small.
    centroids = at(0, 0, 8, 90, 98, 180, 188)
    assert suggest_num_regions(centroids, ones(7)) == 3


def test_empty_clusters_suggest_nothing():
    counts = torch.tensor([3, 3, 0, 3, 3, 0])
    assert suggest_num_regions(at(0, 5, 45, 90, 95, 200), counts) == 2
    assert suggest_num_regions(at(0, 5), ones(2)) == 2


def test_neighbors_are_counted_to_both_sides_within_each_image():
    labels = torch.tensor([[[0, 0, 1], [0, 2, 1]], [[2, 2, 2], [2, 2, 0]]])
    # First image: right 0-1, 0-2, 2-1; below 0-2. Second: right 2-0; below 2-0.
    assert border_counts(labels, 3).tolist() == [[0, 1, 4], [1, 0, 1], [4, 1, 0]]


def test_a_cluster_that_meets_no_other_has_no_borders():
    assert border_counts(torch.zeros(2, 3, 4, dtype=torch.uint8), 3).sum() == 0
