"""Fewer points for outlines: Douglas and Peucker's algorithm on the borders that regions share."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from fusseg.export.annotations.contours import Outlines

_FAR = np.iinfo(np.int64).max
_WIDE = 2**31
"""More than any coordinate: y * _WIDE + x orders points by row, then column."""


def simplify(outlines: Outlines, tolerance: float) -> Outlines:
    """Leave out points of all rings that lie within a tolerance of the lines that stay.

    Where regions meet, points stay. The line between two such points is simplified in the same way
    from both of its sides, so that neighbors still share their border: nothing overlaps, and no gap
    opens, but where a part is so thin that its two sides cross. A ring of which nothing would
    remain stays as it was. The areas stay those of the pixels.

    Args:
        outlines: As traced.
        tolerance: Largest distance of a point from its line, in pixels; at least 0.
    """
    sizes = np.diff(outlines.starts)
    first = _first_points(outlines, sizes)
    ends = np.cumsum(sizes + 1)
    step = np.arange(ends[-1]) - np.repeat(ends - sizes - 1, sizes + 1)
    ring = np.repeat(np.arange(len(sizes)), sizes + 1)
    # Each ring as a line that ends where it begins.
    index = outlines.starts[ring] + (first[ring] + step) % sizes[ring]
    kept = outlines.fixed[index]
    kept[ends - 1] = kept[ends - sizes - 1] = True
    _keep_far_points(outlines.points[index], kept, ring, tolerance)
    kept[ends - 1] = False
    stays = np.zeros(len(outlines.points), bool)
    stays[index[kept]] = True
    starts = outlines.starts[:-1]
    vanished = (np.add.reduceat(stays.astype(np.int64), starts) < 3) | (
        doubled_areas(outlines.points, stays, outlines.starts) * outlines.areas <= 0
    )
    stays |= np.repeat(vanished, sizes)
    _drop_repeated_points(outlines.points, stays, starts)
    counts = np.add.reduceat(stays.astype(np.int64), starts)
    return replace(
        outlines,
        points=outlines.points[stays],
        fixed=outlines.fixed[stays],
        starts=np.concatenate([[0], np.cumsum(counts)]),
    )


def doubled_areas(
    points: Int[np.ndarray, "points 2"],
    stays: Bool[np.ndarray, " points"],
    starts: Int[np.ndarray, " rings_and_one"],
) -> Int[np.ndarray, " rings"]:
    """Twice the area within each ring of the points that stay; negative if counterclockwise."""
    counts = np.add.reduceat(stays.astype(np.int64), starts[:-1])
    ends = np.cumsum(counts)
    x, y = points[stays].T
    following = np.arange(1, len(x) + 1)
    following[ends - 1] = ends - counts
    return np.add.reduceat(x * y[following] - x[following] * y, ends - counts)


def _first_points(
    outlines: Outlines, sizes: Int[np.ndarray, " rings"]
) -> Int[np.ndarray, " rings"]:
    """Choose where each ring is cut open: at a fixed point, else at its first by row and column."""
    key = _order(outlines.points) + np.where(outlines.fixed, 0, _WIDE**2 // 2)
    starts = outlines.starts[:-1]
    least = np.repeat(np.minimum.reduceat(key, starts), sizes)
    # A fixed point may occur twice in a ring, where two of its pixels touch across.
    place = np.where(key == least, np.arange(len(key)), _FAR)
    first: np.ndarray = np.minimum.reduceat(place, starts) - starts
    return first


def _keep_far_points(
    points: Int[np.ndarray, "points 2"],
    kept: Bool[np.ndarray, " points"],
    ring: Int[np.ndarray, " points"],
    tolerance: float,
) -> None:
    """Mark in `kept` the points that lines between kept ones miss, for all lines at a time."""
    stops = np.flatnonzero(kept)
    same = ring[stops[1:]] == ring[stops[:-1]]
    begin, end = stops[:-1][same], stops[1:][same]
    while True:
        inner = end - begin > 1
        begin, end = begin[inner], end[inner]
        if not len(begin):
            return
        sizes = end - begin - 1
        starts = np.cumsum(sizes) - sizes
        line = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(len(line)) - starts[line] + begin[line] + 1
        distance = _squared_distances(points[place], points[begin[line]], points[end[line]])
        farthest = np.maximum.reduceat(distance, starts)
        # Of several points equally far the first by row and column, whichever way the line runs.
        key = np.where(distance == farthest[line], _order(points[place]), _FAR)
        chosen = place[key == np.minimum.reduceat(key, starts)[line]]
        split = farthest > tolerance**2
        chosen, begin, end = chosen[split], begin[split], end[split]
        kept[chosen] = True
        begin, end = np.concatenate([begin, chosen]), np.concatenate([chosen, end])


def _drop_repeated_points(
    points: Int[np.ndarray, "points 2"],
    stays: Bool[np.ndarray, " points"],
    starts: Int[np.ndarray, " rings"],
) -> None:
    """Unmark in `stays` the second of two equal points in a row: what lay between them is gone."""
    counts = np.add.reduceat(stays.astype(np.int64), starts)
    ends = np.cumsum(counts)
    places = np.flatnonzero(stays)
    before = np.arange(len(places)) - 1
    before[ends - counts] = ends - 1
    repeated = (points[places] == points[places[before]]).all(axis=1)
    stays[places[repeated]] = False


def _squared_distances(
    points: Int[np.ndarray, "points 2"],
    begin: Int[np.ndarray, "points 2"],
    end: Int[np.ndarray, "points 2"],
) -> Float[np.ndarray, " points"]:
    """Distance of points from segments, squared; the same, to the bit, if a segment is turned."""
    along, off = end - begin, points - begin
    length = (along * along).sum(axis=1)
    reach = (along * off).sum(axis=1)
    cross = (along[:, 0] * off[:, 1] - along[:, 1] * off[:, 0]).astype(np.float64)
    squared = cross * cross / np.maximum(length, 1)
    squared = np.where(reach <= 0, (off * off).sum(axis=1), squared)
    past = points - end
    far: np.ndarray = np.where((reach >= length) & (reach > 0), (past * past).sum(axis=1), squared)
    return far


def _order(points: Int[np.ndarray, "points 2"]) -> Int[np.ndarray, " points"]:
    order: np.ndarray = points[:, 1] * _WIDE + points[:, 0]
    return order
