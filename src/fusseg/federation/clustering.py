"""Reduce the clients' pooled centroids to one centroid matrix."""

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
"""Sums over so few are not worth keeping up from one iteration to the next."""

Distance = Literal["cosine", "euclidean"]


def kmeans(
    points: Float[Tensor, "points dim"],
    num_clusters: int,
    distance: Distance,
    generator: Generator,
    restarts: int = RESTARTS,
) -> Float[Tensor, "clusters dim"]:
    """Cluster points: k-means++, then Lloyd, the best of several starts (FUSS paper, Eq. 11).

    Args:
        points: What to cluster.
        num_clusters: Rows of the result.
        distance: `euclidean` takes the points as they are; `cosine` takes them at unit length and
            normalizes the centers after every step (spherical k-means).
        generator: Random source of the starts.
        restarts: How many starts; the one with the smallest sum of squared distances wins.

    Raises:
        FederationError: If there are fewer points than clusters.
    """
    _check_enough(points, num_clusters)
    # In float64, so that the winner among the starts does not hang on rounding.
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

    An empty cluster starts again at the point farthest from its center; where there are fewer
    points than empty clusters, the others keep their centers.

    Args:
        points: Rows of unit length.
        weights: Of the points, above 0.
        centers: Where to start, rows of unit length.
    """
    return _lloyd(measure(points), weights, centers, "cosine")


def maximin(
    points: Float[Tensor, "points dim"],
    num_clusters: int,
    distance: Distance,
    generator: Generator,
) -> Float[Tensor, "clusters dim"]:
    """Pick points that lie as far from each other as possible (FUSS paper, Eq. 12).

    Args:
        points: What to pick from.
        num_clusters: How many to pick.
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
        # Below any distance: among copies of the same point none is picked twice.
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

    Of some candidates, each with a chance proportional to its squared distance so far, the one is
    taken that leaves the least distance.
    """
    num_candidates = 2 + int(math.log(num_clusters))
    picked = [int(torch.randint(len(points), (), generator=generator))]
    closest = squared_distances(points, points.exact[picked]).squeeze(1)
    while len(picked) < num_clusters:
        # Where all points coincide with a center any point will do.
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
        points: What to cluster.
        weights: Of the points; None: 1 each.
        centers: Where to start.
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
        # Sums that were kept up carry rounding along: what is returned was summed anew.
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
    """Start empty clusters again at the points farthest from their centers."""
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
