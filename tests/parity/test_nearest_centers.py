"""Nearest centers kept up by bounds against comparing every point with every center."""

import pytest
import torch

from fusseg.federation.clustering import _plus_plus, kmeans, lloyd_on_sphere
from fusseg.federation.nearest_centers import (
    find_nearest,
    follow_centers,
    measure,
    squared_distances,
)


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def compare_all(points, centers):
    return squared_distances(measure(points), centers).argmin(dim=1)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 1e25])
@pytest.mark.parametrize("step", [1e-9, 1e-3, 1.0])
def test_centers_that_move_are_followed_whatever_the_scale(scale, step):
    points, centers = scale * draw(0, 5000, 7), scale * draw(1, 9, 7)
    found = find_nearest(measure(points), centers)
    assert torch.equal(found.index, compare_all(points, centers))
    for seed in range(2, 12):
        # One center runs ahead, so that it counts that it may not come closer to its own points.
        moved = centers + scale * step * draw(seed, 9, 7) * (
            1 + 5 * torch.eye(9)[seed % 9][:, None]
        )
        found = follow_centers(found, measure(points), centers, moved)
        centers = moved
        assert torch.equal(found.index, compare_all(points, centers))


def test_the_bounds_hold():
    points, old, new = draw(0, 3000, 70), draw(1, 12, 70), draw(2, 12, 70)
    known = find_nearest(measure(points), old)
    followed = follow_centers(known, measure(points), old, new)
    for found, centers in [(known, old), (followed, new)]:
        distances = torch.cdist(points, centers)
        rows = torch.arange(len(points))
        assert bool((found.near >= distances[rows, found.index]).all())
        distances[rows, found.index] = torch.inf
        assert bool((found.far <= distances.amin(dim=1)).all())


def test_of_equally_near_centers_the_first_is_taken():
    points, centers = draw(0, 50, 3), draw(1, 4, 3)
    found = find_nearest(measure(points), centers.repeat(3, 1))
    assert torch.equal(found.index, compare_all(points, centers))
    followed = follow_centers(found, measure(points), centers.repeat(3, 1), centers.repeat(3, 1))
    assert torch.equal(followed.index, found.index)


def test_what_float32_cannot_tell_apart_is_compared_in_float64():
    centers = torch.tensor([[1.0], [1.0 + 1e-4]], dtype=torch.float64)
    points = torch.tensor([[1.0001], [1.0], [1.00006], [1.00004]], dtype=torch.float64)
    assert find_nearest(measure(points), centers).index.tolist() == [1, 0, 1, 0]


def slow_lloyd(points, weights, centers, *, sphere):
    """Compare all with all and sum all again in every iteration."""
    assignment = None
    while True:
        nearest = compare_all(points, centers)
        if assignment is not None and torch.equal(nearest, assignment):
            return centers
        assignment = nearest
        sums = torch.zeros_like(centers).index_add_(0, nearest, points * weights[:, None])
        means = sums / torch.zeros(len(centers)).double().index_add_(0, nearest, weights)[:, None]
        centers = torch.nn.functional.normalize(means, dim=1) if sphere else means


@pytest.mark.parametrize("seed", range(3))
def test_k_means_of_many_points_has_the_bits_of_the_slow_loop(seed, seeded):
    points = draw(seed, 9000, 12).float()
    start = _plus_plus(measure(points.double()), 8, seeded(seed))
    slow = slow_lloyd(points.double(), torch.ones(9000).double(), start, sphere=False)
    found = kmeans(points, 8, "euclidean", seeded(seed), restarts=1)
    assert torch.equal(found, slow.float())


@pytest.mark.parametrize("seed", range(3))
def test_weighted_lloyd_of_many_points_has_the_bits_of_the_slow_loop(seed):
    points = torch.nn.functional.normalize(draw(seed, 9000, 12), dim=1)
    weights = draw(seed + 9, 9000).abs() + 0.1
    slow = slow_lloyd(points, weights, points[:8], sphere=True)
    assert torch.equal(lloyd_on_sphere(points, weights, points[:8]), slow)
