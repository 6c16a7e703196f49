import re

import pytest
import torch

from fusseg.core.errors import FederationError
from fusseg.federation.clustering import kmeans, maximin


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_finds_the_centers_of_two_groups(seed, seeded):
    points = torch.tensor([[0.0], [10.0], [1.0], [11.0]])
    centers = kmeans(points, 2, "euclidean", seeded(seed))
    assert sorted(centers.flatten().tolist()) == [0.5, 10.5]


@pytest.mark.parametrize("seed", range(5))
def test_spherical_kmeans_groups_by_direction_and_returns_unit_centers(seed, seeded):
    points = torch.tensor([[100.0, 0.0], [3.0, 4.0], [0.6, 0.8], [0.01, 0.0]])
    centers = kmeans(points, 2, "cosine", seeded(seed))
    ordered = centers[centers[:, 0].argsort()]
    torch.testing.assert_close(ordered, torch.tensor([[0.6, 0.8], [1.0, 0.0]]))


def test_spherical_centers_are_normalized_means_of_unit_rows(seeded):
    # Means of (1, 0) and (0.6, 0.8), whatever their lengths: (0.8, 0.4), at unit length.
    points = torch.tensor([[9.0, 0.0], [0.6, 0.8], [-1.0, -1.0]])
    centers = kmeans(points, 2, "cosine", seeded(0))
    ordered = centers[centers[:, 0].argsort()]
    expected = torch.tensor([[-(0.5**0.5), -(0.5**0.5)], [0.8 / 0.8**0.5, 0.4 / 0.8**0.5]])
    torch.testing.assert_close(ordered, expected)


def test_as_many_clusters_as_points_gives_the_points_back(seeded):
    points = torch.tensor([[0.0, 3.0], [1.0, 1.0], [7.0, 2.0]])
    centers = kmeans(points, 3, "euclidean", seeded(0))
    assert {tuple(row) for row in centers.tolist()} == {tuple(row) for row in points.tolist()}


def test_more_clusters_than_distinct_points_still_gives_points(seeded):
    points = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2)
    for distance in ("euclidean", "cosine"):
        centers = kmeans(points, 4, distance, seeded(0))
        assert {tuple(row) for row in centers.tolist()} == {(1.0, 0.0), (0.0, 1.0)}


def test_more_restarts_never_make_the_clustering_worse(seeded):
    points = torch.randn(40, 2, generator=seeded(0))

    def inertia(restarts):
        centers = kmeans(points, 6, "euclidean", seeded(3), restarts)
        return float(torch.cdist(points, centers).amin(dim=1).square().sum())

    assert inertia(10) <= inertia(3) <= inertia(1)


@pytest.mark.parametrize(
    ("start", "expected"), [(0, [0, 10, 4]), (1, [1, 10, 4]), (10, [10, 0, 4]), (4, [4, 10, 0])]
)
def test_maximin_adds_the_point_farthest_from_its_closest_picked_one(start, expected, seeded):
    points = torch.tensor([[0.0], [1.0], [10.0], [4.0]])
    picks = (maximin(points, 3, "euclidean", seeded(seed)).flatten() for seed in range(100))
    found = next(picked for picked in picks if picked[0] == start)
    assert found.tolist() == expected


def test_maximin_by_cosine_sees_directions_only(seeded):
    points = torch.tensor([[1.0, 0.0], [100.0, 1.0], [0.0, 0.01]])
    for seed in range(10):
        picked = maximin(points, 2, "cosine", seeded(seed))
        torch.testing.assert_close(picked.norm(dim=1), torch.ones(2))
        assert (picked @ torch.tensor([0.0, 1.0]) > 0.99).sum() == 1


def test_maximin_picks_no_point_twice_among_copies(seeded):
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    picked = maximin(points, 4, "euclidean", seeded(0))
    assert sorted(map(tuple, picked.tolist())) == sorted(map(tuple, points.tolist()))


@pytest.mark.parametrize("cluster", [kmeans, maximin])
def test_fewer_points_than_clusters_are_refused(cluster, seeded):
    message = (
        "cannot pick 3 centroids out of 2 pooled ones; lower model.num_clusters or add clients"
    )
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        cluster(torch.eye(2), 3, "cosine", seeded(0))
