"""k-means and maximin: reduce the clients' pooled centroids to one centroid matrix."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.core.errors import FederationError
from fusseg.federation.nearest_centers import (
    Points,
    find_nearest,
    follow_centers,
    measure,
    squared_distances,
)

MAX_ITERATIONS = 300
RESTARTS = 10
_FEW_POINTS = 4096
"""With so few points, sums are computed again in every iteration instead of being updated."""

Distance = Literal["cosine", "euclidean"]


def kmeans(
    points: Float[Tensor, "points dim"],
    num_clusters: int,
    distance: Distance,
    generator: Generator,
    restarts: int = RESTARTS,
) -> Float[Tensor, "clusters dim"]:
    """Cluster points by k-means: the best of several k-means++ starts (FUSS paper, Eq. 11).

    >>> points = torch.tensor([[0.0, 2.0], [0.0, 4.0], [5.0, 0.0]])
    >>> generator = Generator().manual_seed(0)
    >>> sorted(kmeans(points, 2, "euclidean", generator).tolist())
    [[0.0, 3.0], [5.0, 0.0]]
    >>> sorted(kmeans(points, 2, "cosine", generator).tolist())
    [[0.0, 1.0], [1.0, 0.0]]

    Args:
        points: Points to cluster.
        num_clusters: Number of centers.
        distance: `euclidean` uses the points as they are; `cosine` normalizes the points, and the
            centers after every step (spherical k-means).
        generator: Random source of the starts.
        restarts: Number of starts; the one with the smallest sum of squared distances wins.

    Returns:
        The centers, in arbitrary order.

    Raises:
        FederationError: If there are fewer points than clusters.
    """
    _check_enough(points, num_clusters)
    # In float64, so that the winner among the starts does not depend on rounding.
    pool = measure(_on_sphere(points.double(), distance))
    best: Float[Tensor, "clusters dim"] | None = None
    smallest = torch.inf
    for _ in range(restarts):
        start = _plus_plus(pool, num_clusters, generator)
        centers = _lloyd(pool, None, start, distance)
        inertia = float(squared_distances(pool, centers).amin(dim=1).sum())
        if best is None or inertia < smallest:
            best, smallest = centers, inertia
    assert best is not None
    return best.to(points.dtype)


def lloyd_on_sphere(
    points: Float[Tensor, "points dim"],
    weights: Float[Tensor, " points"],
    centers: Float[Tensor, "clusters dim"],
) -> Float[Tensor, "clusters dim"]:
    """Move given centers by weighted spherical k-means until no point changes its cluster.

    An empty cluster restarts at the point farthest from its center. If there are fewer points than
    empty clusters, the others keep their centers.

    Args:
        points: Points of unit length.
        weights: Weights of the points; above 0.
        centers: Centers to start from, of unit length.
    """
    return _lloyd(measure(points), weights, centers, "cosine")


def maximin(
    points: Float[Tensor, "points dim"],
    num_clusters: int,
    distance: Distance,
    generator: Generator,
) -> Float[Tensor, "clusters dim"]:
    """Pick points that lie as far from each other as possible (FUSS paper, Eq. 12).

    >>> points = torch.tensor([[0.0, 2.0], [0.0, 3.0], [5.0, 0.0], [0.0, -9.0]])
    >>> maximin(points, 3, "euclidean", Generator().manual_seed(0)).tolist()
    [[0.0, 2.0], [0.0, -9.0], [5.0, 0.0]]

    Args:
        points: Points to pick from.
        num_clusters: Number of points to pick.
        distance: As in `kmeans`.
        generator: Random source of the first pick.

    Returns:
        The picked points, in the order they were picked; at unit length with `cosine`.

    Raises:
        FederationError: If there are fewer points than clusters.
    """
    _check_enough(points, num_clusters)
    pool = measure(_on_sphere(points.double(), distance))
    picked = [int(torch.randint(len(points), (), generator=generator))]
    closest = torch.full((len(points),), torch.inf, dtype=torch.float64)
    while len(picked) < num_clusters:
        newest = pool.exact[picked[-1:]]
        closest = torch.minimum(closest, squared_distances(pool, newest).squeeze(1))
        # Below any distance, so that no point is picked twice even if there are copies of it.
        closest[picked] = -1
        picked.append(int(closest.argmax()))
    return pool.exact[picked].to(points.dtype)


def _on_sphere(
    points: Float[Tensor, "points dim"], distance: Distance
) -> Float[Tensor, "points dim"]:
    return normalize(points, dim=1) if distance == "cosine" else points


def _plus_plus(
    points: Points, num_clusters: int, generator: Generator
) -> Float[Tensor, "clusters dim"]:
    """Draw starting centers greedily, as scikit-learn does.

    Candidates are drawn with probability proportional to their squared distance to the closest
    center so far. The candidate that leaves the smallest total distance is taken.
    """
    num_candidates = 2 + int(math.log(num_clusters))
    picked = [int(torch.randint(len(points), (), generator=generator))]
    closest = squared_distances(points, points.exact[picked]).squeeze(1)
    while len(picked) < num_clusters:
        # If every point coincides with a center, any point will do.
        weights = closest if bool(closest.sum() > 0) else torch.ones_like(closest)
        candidates = torch.multinomial(
            weights, num_candidates, replacement=True, generator=generator
        )
        left = squared_distances(points, points.exact[candidates])
        torch.minimum(left, closest[:, None], out=left)
        best = int(left.sum(dim=0).argmin())
        picked.append(int(candidates[best]))
        closest = left[:, best]
    return points.exact[picked]


def _lloyd(
    points: Points,
    weights: Float[Tensor, " points"] | None,
    centers: Float[Tensor, "clusters dim"],
    distance: Distance,
) -> Float[Tensor, "clusters dim"]:
    """Move centers to the means of their points until no point changes its cluster.

    Args:
        points: Points to cluster.
        weights: Weights of the points; None: 1 each.
        centers: Centers to start from.
        distance: As in `kmeans`.
    """
    weighted = points.exact if weights is None else points.exact * weights[:, None]
    nearest = find_nearest(points, centers)
    sums, anew = _sum_clusters(weighted, nearest.index, len(centers)), True
    for _ in range(MAX_ITERATIONS):
        total = torch.bincount(nearest.index, weights, len(centers)).to(centers.dtype)
        filled = (total > 0)[:, None]
        means = torch.where(filled, sums / torch.where(filled, total[:, None], 1), centers)
        if not bool(filled.all()):
            _restart_empty(means, nearest.index, points, centers)
        moved = _on_sphere(means, distance)
        assignment = nearest.index
        nearest = follow_centers(nearest, points, centers, moved)
        centers = moved
        changed = (nearest.index != assignment).nonzero().flatten()
        if anew and not len(changed):
            break
        # Updated sums accumulate rounding; the returned centers come from fresh sums.
        anew = not 0 < len(changed) <= len(points) // 4 or len(points) <= _FEW_POINTS
        if anew:
            sums = _sum_clusters(weighted, nearest.index, len(centers))
        else:
            sums.index_add_(0, nearest.index[changed], weighted[changed])
            sums.index_add_(0, assignment[changed], weighted[changed], alpha=-1)
    return centers


def _sum_clusters(
    weighted: Float[Tensor, "points dim"], assignment: Int[Tensor, " points"], num_clusters: int
) -> Float[Tensor, "clusters dim"]:
    zeros = torch.zeros(num_clusters, weighted.shape[1], dtype=weighted.dtype)
    return zeros.index_add_(0, assignment, weighted)


def _restart_empty(
    means: Float[Tensor, "clusters dim"],
    assignment: Int[Tensor, " points"],
    points: Points,
    centers: Float[Tensor, "clusters dim"],
) -> None:
    """Restart empty clusters at the points farthest from their centers."""
    empty = (torch.bincount(assignment, minlength=len(means)) == 0).nonzero().flatten()
    distances = squared_distances(points, centers).amin(dim=1)
    farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
    means[empty[: len(farthest)]] = points.exact[farthest]


def _check_enough(points: Float[Tensor, "points dim"], num_clusters: int) -> None:
    if len(points) < num_clusters:
        raise FederationError(
            f"cannot pick {num_clusters} centroids out of {len(points)} pooled ones; "
            "lower model.num_clusters or add clients"
        )
