"""Reduce the clients' pooled centroids to one centroid matrix."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.errors import FederationError

MAX_ITERATIONS = 300
RESTARTS = 10

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
    exact = _on_sphere(points.double(), distance)
    best: Float[Tensor, "clusters dim"] | None = None
    smallest = torch.inf
    for _ in range(restarts):
        start = _plus_plus(exact, num_clusters, generator)
        centers = _lloyd(exact, torch.ones_like(exact[:, 0]), start, distance)
        inertia = float(_squared_distances(exact, centers).amin(dim=1).sum())
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
    return _lloyd(points, weights, centers, "cosine")


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
    exact = _on_sphere(points.double(), distance)
    picked = [int(torch.randint(len(points), (), generator=generator))]
    closest = torch.full((len(points),), torch.inf, dtype=torch.float64)
    while len(picked) < num_clusters:
        newest = exact[picked[-1]]
        closest = torch.minimum(closest, _squared_distances(exact, newest[None]).squeeze(1))
        # Below any distance: among copies of the same point none is picked twice.
        closest[picked] = -1
        picked.append(int(closest.argmax()))
    return exact[picked].to(points.dtype)


def _on_sphere(
    points: Float[Tensor, "points dim"], distance: Distance
) -> Float[Tensor, "points dim"]:
    return normalize(points, dim=1) if distance == "cosine" else points


def _squared_distances(
    points: Float[Tensor, "points dim"], centers: Float[Tensor, "clusters dim"]
) -> Float[Tensor, "points clusters"]:
    # On the unit sphere this is 2 - 2 cos, so that one formula serves both distances. The expanded
    # form is one matrix product; in float64 its rounding is far below any distance that matters.
    lengths = points.square().sum(dim=1, keepdim=True) + centers.square().sum(dim=1)
    return (lengths - 2 * points @ centers.T).clamp(min=0)


def _plus_plus(
    points: Float[Tensor, "points dim"], num_clusters: int, generator: Generator
) -> Float[Tensor, "clusters dim"]:
    """Draw starting centers greedily, as scikit-learn does.

    Of some candidates, each with a chance proportional to its squared distance so far, the one is
    taken that leaves the least distance.
    """
    num_candidates = 2 + int(math.log(num_clusters))
    picked = [int(torch.randint(len(points), (), generator=generator))]
    closest = _squared_distances(points, points[picked]).squeeze(1)
    while len(picked) < num_clusters:
        # Where all points coincide with a center any point will do.
        weights = closest if bool(closest.sum() > 0) else torch.ones_like(closest)
        candidates = torch.multinomial(
            weights, num_candidates, replacement=True, generator=generator
        )
        left = torch.minimum(closest[:, None], _squared_distances(points, points[candidates]))
        best = int(left.sum(dim=0).argmin())
        picked.append(int(candidates[best]))
        closest = left[:, best]
    return points[picked]


def _lloyd(
    points: Float[Tensor, "points dim"],
    weights: Float[Tensor, " points"],
    centers: Float[Tensor, "clusters dim"],
    distance: Distance,
) -> Float[Tensor, "clusters dim"]:
    assignment = torch.full((len(points),), -1)
    for _ in range(MAX_ITERATIONS):
        distances = _squared_distances(points, centers)
        nearest = distances.argmin(dim=1)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        means = _means(points, weights, assignment, centers)
        _restart_empty(means, points, assignment, distances.amin(dim=1))
        centers = _on_sphere(means, distance)
    return centers


def _means(
    points: Float[Tensor, "points dim"],
    weights: Float[Tensor, " points"],
    assignment: Int[Tensor, " points"],
    centers: Float[Tensor, "clusters dim"],
) -> Float[Tensor, "clusters dim"]:
    """Weighted mean of each cluster; an empty one keeps its center."""
    total = torch.zeros(len(centers), dtype=points.dtype).index_add_(0, assignment, weights)
    sums = torch.zeros_like(centers).index_add_(0, assignment, points * weights[:, None])
    filled = (total > 0)[:, None]
    return torch.where(filled, sums / torch.where(filled, total[:, None], 1), centers)


def _restart_empty(
    means: Float[Tensor, "clusters dim"],
    points: Float[Tensor, "points dim"],
    assignment: Int[Tensor, " points"],
    distances: Float[Tensor, " points"],
) -> None:
    """Start empty clusters again at the points farthest from their centers."""
    empty = (torch.bincount(assignment, minlength=len(means)) == 0).nonzero().flatten()
    farthest = distances.argsort(descending=True, stable=True)[: len(empty)]
    means[empty[: len(farthest)]] = points[farthest]


def _check_enough(points: Float[Tensor, "points dim"], num_clusters: int) -> None:
    if len(points) < num_clusters:
        raise FederationError(
            f"cannot pick {num_clusters} centroids out of {len(points)} pooled ones; "
            "lower model.num_clusters or add clients"
        )
