"""Equations 11 and 12 against scikit-learn, loops, and all partitions of few points."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from fusseg.federation.clustering import _plus_plus, kmeans, maximin
from fusseg.federation.nearest_centers import measure


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inertia_of(points, centers):
    """Sum of squared distances to the nearest center, by loops in float64."""
    return sum(
        min(
            sum((a - b) ** 2 for a, b in zip(point, center, strict=True))
            for center in centers.tolist()
        )
        for point in points.tolist()
    )


def sklearn_inertia(points, num_clusters, restarts):
    found = KMeans(num_clusters, n_init=restarts, random_state=0, tol=0.0, max_iter=300)
    return float(found.fit(points.double().numpy()).inertia_)


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_reaches_the_inertia_of_scikit_learn_on_separable_pools(seed, seeded):
    # As in a federation: four clients whose centroids are noisy copies of the same nine.
    points = (5 * draw(seed, 9, 16)).repeat(4, 1) + 0.3 * draw(seed + 100, 36, 16)
    centers = kmeans(points, 9, "euclidean", seeded(seed))
    assert inertia_of(points, centers) == pytest.approx(sklearn_inertia(points, 9, 10), rel=1e-5)


@pytest.mark.parametrize(
    ("num_points", "dim", "num_clusters"), [(24, 2, 4), (40, 3, 9), (81, 70, 27)]
)
@pytest.mark.parametrize("seed", range(2))
def test_kmeans_reaches_the_inertia_of_scikit_learn_from_the_same_starts_on_random_pools(
    num_points, dim, num_clusters, seed, seeded
):
    points = draw(seed, num_points, dim)
    generator = seeded(seed)
    starts = [_plus_plus(measure(points.double()), num_clusters, generator) for _ in range(10)]
    runs = [
        KMeans(num_clusters, init=start.numpy(), n_init=1, tol=0.0).fit(points.double().numpy())
        for start in starts
    ]
    centers = kmeans(points, num_clusters, "euclidean", seeded(seed))
    best = min(runs, key=lambda run: run.inertia_)
    assert inertia_of(points, centers) == pytest.approx(best.inertia_, rel=1e-6)
    torch.testing.assert_close(centers, torch.from_numpy(best.cluster_centers_).float())


def slow_spherical_step(points, centers):
    """One step of spherical k-means in loops: assign by cosine, add unit points, normalize."""

    def unit(row):
        length = math.sqrt(sum(value * value for value in row))
        return [value / length for value in row]

    members = [[] for _ in centers]
    for point in map(unit, points):
        cosines = [sum(a * b for a, b in zip(point, unit(c), strict=True)) for c in centers]
        members[cosines.index(max(cosines))].append(point)
    return [
        unit([sum(values) for values in zip(*group, strict=True)]) if group else center
        for group, center in zip(members, centers, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_spherical_centers_are_a_fixed_point_of_the_loop(seed, seeded):
    points = draw(seed, 30, 5) * (1 + draw(seed + 50, 30, 1).abs())
    centers = kmeans(points, 6, "cosine", seeded(seed))
    expected = torch.tensor(slow_spherical_step(points.tolist(), centers.tolist()))
    torch.testing.assert_close(centers, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_spherical_kmeans_finds_the_best_of_all_partitions_of_few_points(seed, seeded):
    points = draw(seed, 7, 3)
    units = (points.double() / points.double().norm(dim=1, keepdim=True)).numpy()
    # For a partition the best sum of cosines is the sum of the lengths of the groups' sums.
    best = max(
        sum(np.linalg.norm(units[np.array(labels) == k].sum(axis=0)) for k in range(3))
        for labels in product(range(3), repeat=7)
    )
    centers = kmeans(points, 3, "cosine", seeded(seed), 200).double().numpy()
    assert (units @ centers.T).max(axis=1).sum() == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_euclidean_kmeans_finds_the_best_of_all_partitions_of_few_points(seed, seeded):
    points = draw(seed, 7, 2)
    rows = points.double().numpy()
    best = min(
        sum(
            ((rows[mask] - rows[mask].mean(axis=0)) ** 2).sum()
            for mask in (np.array(labels) == k for k in range(3))
            if mask.any()
        )
        for labels in product(range(3), repeat=7)
    )
    centers = kmeans(points, 3, "euclidean", seeded(seed), 200)
    assert inertia_of(points, centers) == pytest.approx(best, rel=1e-5)


def slow_maximin(points, first, num_clusters, distance):
    picked = [first]
    while len(picked) < num_clusters:
        gaps = [
            -1.0 if place in picked else min(distance(point, points[p]) for p in picked)
            for place, point in enumerate(points)
        ]
        picked.append(gaps.index(max(gaps)))
    return picked


def cosine_distance(left, right):
    product_ = sum(a * b for a, b in zip(left, right, strict=True))
    return 1 - product_ / math.hypot(*left) / math.hypot(*right)


@pytest.mark.parametrize(
    ("kind", "distance"), [("euclidean", math.dist), ("cosine", cosine_distance)]
)
@pytest.mark.parametrize("seed", range(5))
def test_maximin_equals_the_loop(kind, distance, seed, seeded):
    points = draw(seed, 20, 4)
    found = maximin(points, 8, kind, seeded(seed))
    rows = points if kind == "euclidean" else points / points.norm(dim=1, keepdim=True)
    first = int((rows - found[0]).norm(dim=1).argmin())
    expected = rows[slow_maximin(points.double().tolist(), first, 8, distance)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_every_pooled_centroid_can_be_the_first(seeded):
    points = torch.arange(6.0)[:, None]
    firsts = {maximin(points, 2, "euclidean", seeded(seed))[0].item() for seed in range(100)}
    assert firsts == set(range(6))
