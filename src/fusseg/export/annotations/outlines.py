"""Outlines of all regions of an image along the borders of pixels, and the parts they enclose."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from fusseg.core.errors import DataError

MAX_SIDES = 40_000_000
"""Largest number of pixel sides on borders. The outlines of an image with more would fill the
memory."""

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Row and column step of a walk east, south, west and north, with the region on its right."""
_CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0))
"""Corner at which the walk along each side begins: along the top side it goes east, and so on."""
_STRIP = 2**22
_FAR = np.iinfo(np.int64).max

Labels = UInt8[np.ndarray, "height width"]
Sides = list[Int[np.ndarray, " _"]]
Ring = Int[np.ndarray, "_ 2"]


@dataclass(frozen=True)
class Outlines:
    """Closed rings around the connected components of all regions, and around their holes.

    The pixels of a component are connected over their sides. A ring has its component on the
    right: outer rings run clockwise, rings of holes counterclockwise. Neighboring components share
    the points of their border.
    """

    shape: tuple[int, int]
    """Height and width of the image."""
    points: Int[np.ndarray, "points 2"]
    """x and y of the rings' points, at corners of pixels; (0, 0) is the image's top left corner."""
    fixed: Bool[np.ndarray, " points"]
    """Whether three or more regions, or two diagonal pixels, meet in a point, or it is a corner of
    the image."""
    starts: Int[np.ndarray, " rings_and_one"]
    """Index of the first point of each ring, and at the end the number of all points."""
    labels: Int[np.ndarray, " rings"]
    """Region of each ring's component."""
    areas: Int[np.ndarray, " rings"]
    """Number of pixels inside each ring, negative for holes."""
    left: Int[np.ndarray, " rings"]
    """For a hole, the ring of the same component directly left of it; for an outer ring, itself."""
    outer: Int[np.ndarray, " rings"]
    """Outer ring of each ring's component."""
    leftmost: Int[np.ndarray, " rings"]
    """Smallest x of each ring before simplification."""


@dataclass(frozen=True)
class Part:
    """One connected component of a region."""

    region: int
    """Pixel value of the region."""
    rings: tuple[int, ...]
    """Its outer ring, then the rings of its holes."""
    area: int
    """Number of its pixels, with those of holes that are too small to be cut out."""


@dataclass(frozen=True)
class Box:
    """The smallest upright rectangle around parts, in pixels."""

    left: int
    top: int
    width: int
    height: int


def trace_outlines(labels: Labels) -> Outlines:
    """Trace the outlines of all regions of an image.

    Time and memory grow with the length of all borders.

    Raises:
        DataError: If the borders are too long.
    """
    sides = _list_sides(labels)
    firsts = np.cumsum([0, *map(len, sides)])
    order, starts = _walk(_followers(labels, sides, firsts))
    direction = (np.searchsorted(firsts, order, side="right") - 1).astype(np.int8)
    pixel = np.concatenate(sides)[order]
    row, column = np.divmod(pixel, labels.shape[1])
    left = _left_sides(column, pixel, direction, starts, sides[3])
    areas = np.add.reduceat(
        np.where(direction == 2, row + 1, np.where(direction == 0, -row, 0)), starts
    )
    ring_of = np.empty(len(order), np.int32)
    ring_of[order] = np.repeat(
        np.arange(len(starts), dtype=np.int32), np.diff([*starts, len(order)])
    )
    left = np.where(areas > 0, np.arange(len(starts)), ring_of[firsts[3] + left])
    corner = np.array(_CORNERS)
    row += corner[direction, 0]
    column += corner[direction, 1]
    fixed = _are_fixed(labels, row, column)
    before = np.roll(direction, 1)
    before[starts] = direction[[*(starts[1:] - 1), -1]]
    kept = fixed | (before != direction)
    leftmost = np.minimum.reduceat(column, starts)
    return Outlines(
        shape=(labels.shape[0], labels.shape[1]),
        points=np.stack([column[kept], row[kept]], axis=1),
        fixed=fixed[kept],
        starts=np.concatenate([[0], np.cumsum(np.add.reduceat(kept.astype(np.int64), starts))]),
        labels=labels.ravel()[pixel[starts]].astype(np.int64),
        areas=areas,
        left=left,
        outer=_outer_rings(left, areas, leftmost),
        leftmost=leftmost,
    )


def list_parts(outlines: Outlines, min_area: int) -> Iterator[Part]:
    """List the components that have at least an area, ordered by their outer rings.

    Smaller holes are filled, because nothing in them is large enough to be a part.

    Args:
        outlines: Outlines of the image, not simplified.
        min_area: Smallest area of parts and of holes, in pixels.
    """
    cut = (outlines.areas > 0) | (outlines.areas <= -max(min_area, 1))
    chosen = np.flatnonzero(cut)
    chosen = chosen[np.argsort(outlines.outer[chosen], kind="stable")]
    outer, begins = np.unique(outlines.outer[chosen], return_index=True)
    areas = np.add.reduceat(outlines.areas[chosen], begins)
    for ring, rings, area in zip(outer, np.split(chosen, begins[1:]), areas, strict=True):
        if area >= min_area:
            holes = tuple(int(hole) for hole in rings if hole != ring)
            yield Part(int(outlines.labels[ring]), (int(ring), *holes), int(area))


def ring_points(outlines: Outlines, ring: int) -> Ring:
    """Return the points of one ring."""
    return outlines.points[outlines.starts[ring] : outlines.starts[ring + 1]]


def bounding_box(outlines: Outlines, parts: tuple[Part, ...]) -> Box:
    """Compute the smallest rectangle around parts."""
    points = np.concatenate([ring_points(outlines, part.rings[0]) for part in parts])
    left, top = (int(value) for value in points.min(axis=0))
    right, bottom = (int(value) for value in points.max(axis=0))
    return Box(left, top, right - left, bottom - top)


def whole_image(outlines: Outlines) -> Box:
    """Return the rectangle of the whole image."""
    return Box(0, 0, outlines.shape[1], outlines.shape[0])


def _list_sides(labels: Labels) -> Sides:
    """List the pixels with a border on the top, right, bottom and left side, each list sorted."""
    height, width = labels.shape
    found: list[list[np.ndarray]] = [[], [], [], []]
    rows = max(1, _STRIP // width)
    total = 0
    for top in range(0, height, rows):
        strip = labels[top : top + rows]
        across = np.ones((len(strip), width + 1), bool)
        across[:, 1:-1] = strip[:, 1:] != strip[:, :-1]
        down = np.ones((len(strip) + 1, width), bool)
        low, high = max(top - 1, 0), min(top + rows + 1, height)
        change = labels[low + 1 : high] != labels[low : high - 1]
        down[low + 1 - top : high - top] = change
        for pixels, border in zip(
            found, (down[:-1], across[:, 1:], down[1:], across[:, :-1]), strict=True
        ):
            pixels.append(np.flatnonzero(border) + top * width)
            total += len(pixels[-1])
        if total > MAX_SIDES:
            raise DataError(
                f"the borders of the regions are more than {MAX_SIDES} sides of pixels long; "
                "annotate a smaller image, or one with smoother regions"
            )
    return [np.concatenate(pixels) for pixels in found]


def _followers(
    labels: Labels, sides: Sides, firsts: Int[np.ndarray, "5"]
) -> Int[np.ndarray, " sides"]:
    """Find the side that follows each: right where the region ends, else straight on or left."""
    height, width = labels.shape
    flat = labels.ravel()
    follow = np.empty(firsts[4], np.int32)
    for direction, pixel in enumerate(sides):
        row, column = np.divmod(pixel, width)
        ahead, aside = np.array(_STEPS[direction]), np.array(_STEPS[direction - 1])
        places = []
        for down, right in (ahead, ahead + aside):
            to_row, to_column = row + down, column + right
            inside = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
            place = np.where(inside, to_row * width + to_column, pixel)
            places.append((place, inside & (flat[place] == flat[pixel])))
        (straight, goes_on), (turned, turns_left) = places
        turns_left &= goes_on
        goes_on &= ~turns_left
        turns_right = ~(goes_on | turns_left)
        target = follow[firsts[direction] : firsts[direction + 1]]
        for turn, chosen, place in (
            (1, turns_right, pixel),
            (3, turns_left, turned),
            (0, goes_on, straight),
        ):
            onto = (direction + turn) % 4
            target[chosen] = firsts[onto] + np.searchsorted(sides[onto], place[chosen])
    return follow


def _walk(
    follow: Int[np.ndarray, " sides"],
) -> tuple[Int[np.ndarray, " sides"], Int[np.ndarray, " rings"]]:
    """Order the sides ring by ring, with the place of each ring's first side."""
    order = np.empty(len(follow), np.int32)
    # Items of a memoryview are plain integers, which are several times as fast as numpy's.
    following, ordered = follow.data, order.data
    seen = bytearray(len(follow))
    starts = []
    done, side = 0, seen.find(0)
    while side >= 0:
        starts.append(done)
        first = side
        while not seen[side]:
            seen[side] = 1
            ordered[done] = side
            done += 1
            side = following[side]
        side = seen.find(0, first)
    return order, np.array(starts)


def _left_sides(
    column: Int[np.ndarray, " sides"],
    pixel: Int[np.ndarray, " sides"],
    direction: Int[np.ndarray, " sides"],
    starts: Int[np.ndarray, " rings"],
    west: Int[np.ndarray, " west_sides"],
) -> Int[np.ndarray, " rings"]:
    """Find for each hole the side where the row of pixels directly left of it begins.

    For outer rings the result has no meaning.
    """
    place = np.arange(len(column))
    key = np.where(direction == 1, column * len(column) + place, _FAR)
    leftmost = np.minimum.reduceat(key, starts) % len(column)
    found: np.ndarray = np.searchsorted(west, pixel[leftmost], side="right") - 1
    return found


def _outer_rings(
    left: Int[np.ndarray, " rings"],
    areas: Int[np.ndarray, " rings"],
    leftmost: Int[np.ndarray, " rings"],
) -> Int[np.ndarray, " rings"]:
    outer = left.copy()
    # The ring left of a hole begins farther left, so its outer ring is known already.
    for ring in np.argsort(leftmost, kind="stable"):
        if areas[ring] < 0:
            outer[ring] = outer[left[ring]]
    return outer


def _are_fixed(
    labels: Labels, row: Int[np.ndarray, " sides"], column: Int[np.ndarray, " sides"]
) -> Bool[np.ndarray, " sides"]:
    """Tell at which corners of pixels more than two sides meet; corners of the image count too."""
    height, width = labels.shape
    around = []
    for down, right in ((-1, -1), (-1, 0), (0, 0), (0, -1)):
        at_row, at_column = row + down, column + right
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        value = labels.ravel()[np.where(inside, at_row * width + at_column, 0)].astype(np.int16)
        around.append(np.where(inside, value, np.int16(-1)))
    borders = sum((around[i] != around[i - 1]).astype(np.int8) for i in range(4))
    at_corner = ((row == 0) | (row == height)) & ((column == 0) | (column == width))
    found: np.ndarray = (borders > 2) | at_corner
    return found
