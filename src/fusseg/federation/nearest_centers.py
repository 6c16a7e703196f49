"""Track the nearest center of each point while the centers move.

Two shortcuts save work without changing the result. If a point is closer to its center than to any
other by more than the centers moved, its nearest center cannot have changed (Hamerly, Making
k-means even faster, SDM 2010). Other points are compared in float32 first, and in float64 only if
the two nearest centers are closer than float32 can distinguish.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int
from torch import Tensor

_BLOCK_POINTS = 4096
"""Points that are compared at once, few enough for their distances to fit the CPU's cache."""


@dataclass(frozen=True)
class Points:
    """Points in float64 and float32."""

    exact: Float64[Tensor, "points dim"]
    rough: Float32[Tensor, "points dim"]
    lengths: Float64[Tensor, "points 1"]
    """Sum of squares of each point."""

    def __len__(self) -> int:
        """Count the points."""
        return len(self.exact)

    def pick(self, rows: Int[Tensor, " rows"]) -> "Points":
        """Select points, in the given order."""
        return Points(
            self.exact.index_select(0, rows),
            self.rough.index_select(0, rows),
            self.lengths.index_select(0, rows),
        )


@dataclass(frozen=True)
class NearestCenters:
    """The nearest center of each point, with bounds on the distances."""

    index: Int[Tensor, " points"]
    near: Float64[Tensor, " points"]
    """Upper bound of the distance to the nearest center."""
    far: Float64[Tensor, " points"]
    """Lower bound of the distance to any other center."""


def measure(points: Float64[Tensor, "points dim"]) -> Points:
    """Precompute what all comparisons of the points share."""
    return Points(points, points.float(), points.square().sum(dim=1, keepdim=True))


def squared_distances(
    points: Points, centers: Float64[Tensor, "clusters dim"]
) -> Float64[Tensor, "points clusters"]:
    """Compute the squared Euclidean distances of all points to all centers."""
    # On the unit sphere this is 2 - 2 cos, so one formula serves both distances. The expanded
    # form is one matrix product; in float64 its rounding is far below any distance that matters.
    ends = points.lengths + centers.square().sum(dim=1)
    return ends.sub_(points.exact @ centers.T, alpha=2).clamp_(min=0)


def find_nearest(
    points: Points,
    centers: Float64[Tensor, "clusters dim"],
    rows: Int[Tensor, " rows"] | None = None,
) -> NearestCenters:
    """Find each point's nearest center; of equally near ones, the first.

    Args:
        points: All points.
        centers: All centers.
        rows: The points to compare; None: all.
    """
    ends = centers.square().sum(dim=1, keepdim=True)
    rough = (centers.float(), ends.float())
    blocks = (
        torch.split(points.rough, _BLOCK_POINTS)
        if rows is None
        else (points.rough.index_select(0, part) for part in torch.split(rows, _BLOCK_POINTS))
    )
    parts = zip(*(_compare_roughly(block, *rough) for block in blocks), strict=True)
    index, smallest, second = (torch.cat(part) for part in parts)
    lengths = (points.lengths if rows is None else points.lengths[rows]).squeeze(1)
    # A bound on float32's error in a product of so many terms, and in the sums added to it.
    terms = points.rough.shape[1] + 8
    error = terms * 2.0**-23 * (lengths + ends.max())
    # Negated, so that values that overflow float32 are compared in float64 too.
    close = (~(second - smallest > 2 * error)).nonzero().flatten()
    unclear = points.pick(close if rows is None else rows[close])
    index[close] = squared_distances(unclear, centers).argmin(dim=1)
    # Either of the two best may be the nearest now, so the smaller bound holds for the other.
    second[close] = smallest[close]
    near = (smallest + lengths).add_(error).clamp_(min=0).sqrt_()
    far = (second + lengths).sub_(error).clamp_(min=0).sqrt_()
    return NearestCenters(index, near, far)


def follow_centers(
    known: NearestCenters,
    points: Points,
    old: Float64[Tensor, "clusters dim"],
    centers: Float64[Tensor, "clusters dim"],
) -> NearestCenters:
    """Find the nearest centers after a move, comparing only points with overlapping bounds.

    Args:
        known: The nearest of the old centers.
        points: All points, in the order of `known`.
        old: The centers before the move.
        centers: The centers after the move, in the same order.
    """
    moved = (centers - old).norm(dim=1)
    # Any other center may have come closer by the largest move, excluding the point's own center.
    others = moved.max().repeat(len(moved))
    others[moved.argmax()] = moved.topk(min(2, len(moved))).values[-1]
    near = known.near + moved[known.index]
    far = known.far - others[known.index]
    unsure = (~(near < far)).nonzero().flatten()
    found = find_nearest(points, centers, unsure)
    return NearestCenters(
        known.index.index_copy(0, unsure, found.index),
        near.index_copy_(0, unsure, found.near),
        far.index_copy_(0, unsure, found.far),
    )


def _compare_roughly(
    points: Float32[Tensor, "points dim"],
    centers: Float32[Tensor, "clusters dim"],
    ends: Float32[Tensor, "clusters 1"],
) -> tuple[Int[Tensor, " points"], Float64[Tensor, " points"], Float64[Tensor, " points"]]:
    """Find the nearest center; return squared distances without the point's own length."""
    # Centers first: passes over rows of points are vectorized, and argmin is not.
    distances = torch.addmm(ends, centers, points.T, alpha=-2)
    smallest = distances.amin(dim=0)
    larger = torch.gt(distances, smallest, out=torch.empty_like(distances))
    numbers = torch.arange(len(centers), dtype=distances.dtype)[:, None]
    index = torch.add(numbers, larger, alpha=len(centers), out=larger).amin(dim=0).long()
    second = distances.scatter_(0, index[None], torch.inf).amin(dim=0)
    return index, smallest.double(), second.double()
