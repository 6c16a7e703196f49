"""Parts as single polygons, as labeling tools know no holes: a slit leads to each of them."""

from collections import defaultdict

import numpy as np

from fusseg.export.annotations.contours import Outlines
from fusseg.export.annotations.parts import Part, Ring, ring_points


def outline_part(simplified: Outlines, part: Part) -> Ring:
    """Join the rings of a part by slits of no width, from each hole to the ring left of it.

    Filled by either rule, even-odd or winding, the polygon is the part without its holes.

    Args:
        simplified: Outlines with as many points as the polygon is to have.
        part: One of the parts.
    """
    points = {ring: ring_points(simplified, ring) for ring in part.rings}
    inner: defaultdict[int, defaultdict[int, list[Ring]]] = defaultdict(lambda: defaultdict(list))
    holes = sorted(part.rings[1:], key=lambda ring: int(simplified.leftmost[ring]), reverse=True)
    # The rightmost first: what hangs on a hole lies right of it, and is joined to it already.
    for hole in holes:
        onto = _ring_left_of(simplified, hole, points)
        begin = int(points[hole][:, 0].argmin())
        offsets = points[onto] - points[hole][begin]
        nearest = int((offsets * offsets).sum(axis=1).argmin())
        start = _place(inner[hole], begin)
        loop = np.roll(_join(points[hole], inner[hole]), -start, axis=0)
        inner[onto][nearest].append(np.concatenate([loop, loop[:1]]))
    return _join(points[part.rings[0]], inner[part.rings[0]])


def _ring_left_of(simplified: Outlines, hole: int, cut: dict[int, Ring]) -> int:
    """Follow holes to the left until one that is cut out, or the outer ring."""
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
    """Say where a point of a ring is after loops were put in."""
    return place + sum(len(loop) + 1 for at in loops if at < place for loop in loops[at])


def polygon_area(polygon: Ring) -> float:
    """Area within a polygon, without the holes that slits lead to."""
    x, y = polygon.T
    return abs(int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
