"""Polygons of parts: simplified outlines, with slits to holes, which labeling tools do not know."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from fusseg.export.annotations.outlines import Outlines, Part, Ring, ring_points

_FAR = np.iinfo(np.int64).max
_WIDE = 2**31
"""More than any coordinate: y * _WIDE + x orders points by row, then column."""


def simplify(outlines: Outlines, tolerance: float) -> Outlines:
    """Remove points of all rings by Douglas and Peucker's algorithm.

    Points where regions meet are kept. The border between two such points is simplified in the same
    way for the regions on both sides, so that neighbors still share it: there are no overlaps and
    no gaps, except where a part is so thin that its two sides cross. A ring that would vanish is
    not simplified. The areas stay those of the pixels.

    Args:
        outlines: Outlines of the image.
        tolerance: Largest distance of a removed point from its line, in pixels; at least 0.
    """
    sizes = np.diff(outlines.starts)
    first = _first_points(outlines, sizes)
    ends = np.cumsum(sizes + 1)
    step = np.arange(ends[-1]) - np.repeat(ends - sizes - 1, sizes + 1)
    ring = np.repeat(np.arange(len(sizes)), sizes + 1)
    # Each ring as a closed line: its first point is also its last.
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


def outline_part(simplified: Outlines, part: Part) -> Ring:
    """Join the rings of a part by slits of zero width, from each hole to the ring left of it.

    Filled by the even-odd or the winding rule, the polygon is the part without its holes.

    Args:
        simplified: Outlines, simplified as the polygon should be.
        part: One of the image's parts.
    """
    points = {ring: ring_points(simplified, ring) for ring in part.rings}
    inner: defaultdict[int, defaultdict[int, list[Ring]]] = defaultdict(lambda: defaultdict(list))
    holes = sorted(part.rings[1:], key=lambda ring: int(simplified.leftmost[ring]), reverse=True)
    # The rightmost first: holes that are joined to a hole lie right of it.
    for hole in holes:
        onto = _ring_left_of(simplified, hole, points)
        begin = int(points[hole][:, 0].argmin())
        offsets = points[onto] - points[hole][begin]
        nearest = int((offsets * offsets).sum(axis=1).argmin())
        start = _place(inner[hole], begin)
        loop = np.roll(_join(points[hole], inner[hole]), -start, axis=0)
        inner[onto][nearest].append(np.concatenate([loop, loop[:1]]))
    return _join(points[part.rings[0]], inner[part.rings[0]])


def polygon_area(polygon: Ring) -> float:
    """Compute the area of a polygon, without the holes at the ends of slits."""
    x, y = polygon.T
    return abs(int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def doubled_areas(
    points: Int[np.ndarray, "points 2"],
    stays: Bool[np.ndarray, " points"],
    starts: Int[np.ndarray, " rings_and_one"],
) -> Int[np.ndarray, " rings"]:
    """Compute twice the area of each ring of the kept points; negative if counterclockwise."""
    counts = np.add.reduceat(stays.astype(np.int64), starts[:-1])
    ends = np.cumsum(counts)
    x, y = points[stays].T
    following = np.arange(1, len(x) + 1)
    following[ends - 1] = ends - counts
    return np.add.reduceat(x * y[following] - x[following] * y, ends - counts)


def _first_points(
    outlines: Outlines, sizes: Int[np.ndarray, " rings"]
) -> Int[np.ndarray, " rings"]:
    """Choose the point where each ring begins: a fixed point, else the first by row and column."""
    key = _order(outlines.points) + np.where(outlines.fixed, 0, _WIDE**2 // 2)
    starts = outlines.starts[:-1]
    least = np.repeat(np.minimum.reduceat(key, starts), sizes)
    # A fixed point may occur twice in a ring, where two of its pixels touch diagonally.
    place = np.where(key == least, np.arange(len(key)), _FAR)
    first: np.ndarray = np.minimum.reduceat(place, starts) - starts
    return first


def _keep_far_points(
    points: Int[np.ndarray, "points 2"],
    kept: Bool[np.ndarray, " points"],
    ring: Int[np.ndarray, " points"],
    tolerance: float,
) -> None:
    """Mark in `kept` the points that are too far from the lines between kept points."""
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
        # Of equally far points the first by row and column, whatever the direction of the line.
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
    """Unmark in `stays` the second of two equal points in succession."""
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
    """Compute squared distances of points from segments; reversing a segment changes no bit."""
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


def _ring_left_of(simplified: Outlines, hole: int, cut: dict[int, Ring]) -> int:
    """Follow holes to the left up to one that is cut out, or to the outer ring."""
    ring = int(simplified.left[hole])
    while ring not in cut:
        ring = int(simplified.left[ring])
    return ring


def _join(ring: Ring, loops: dict[int, list[Ring]]) -> Ring:
    pieces: list[Ring] = []
    done = 0
    for place in sorted(loops):
        pieces.append(ring[done : place + 1])
        for loop in loops[place]:
            pieces += [loop, ring[place : place + 1]]
        done = place + 1
    return np.concatenate([*pieces, ring[done:]])


def _place(loops: dict[int, list[Ring]], place: int) -> int:
    """Compute the index of a point of a ring after loops were inserted."""
    return place + sum(len(loop) + 1 for at in loops if at < place for loop in loops[at])
