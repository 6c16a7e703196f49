"""The parts of an image to annotate: connected components with what is cut out of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from fusseg.export.annotations.contours import Outlines
from fusseg.export.annotations.rle import Counts, count_runs

Ring = Int[np.ndarray, "_ 2"]


@dataclass(frozen=True)
class Part:
    """One connected component of a region."""

    region: int
    """Pixel value."""
    rings: tuple[int, ...]
    """Its outer ring and those of its holes."""
    area: int
    """Its pixels, with those of holes too small to be cut out."""


@dataclass(frozen=True)
class Box:
    """The smallest upright rectangle around parts, in pixels."""

    left: int
    top: int
    width: int
    height: int


def list_parts(outlines: Outlines, min_area: int) -> Iterator[Part]:
    """List the components of an area, by their outer rings.

    Holes of a smaller area are filled: all that lies in them is too small to be a part.

    Args:
        outlines: As traced.
        min_area: Smallest area in pixels, of parts and of holes.
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
    """Give the points of one ring."""
    return outlines.points[outlines.starts[ring] : outlines.starts[ring + 1]]


def bounding_box(outlines: Outlines, parts: tuple[Part, ...]) -> Box:
    """Find the smallest rectangle around parts."""
    points = np.concatenate([ring_points(outlines, part.rings[0]) for part in parts])
    left, top = (int(value) for value in points.min(axis=0))
    right, bottom = (int(value) for value in points.max(axis=0))
    return Box(left, top, right - left, bottom - top)


def whole_image(outlines: Outlines) -> Box:
    """Give the rectangle of the image itself."""
    return Box(0, 0, outlines.shape[1], outlines.shape[0])


def column_runs(outlines: Outlines, parts: tuple[Part, ...], box: Box) -> Counts:
    """Count the runs of a mask of parts, column by column (COCO).

    Args:
        outlines: As traced.
        parts: What the mask is made of.
        box: The pixels that the mask is of; it holds all parts.
    """
    x, y = _border_sides(outlines, parts, along=0)
    return count_runs((x - box.left) * box.height + y - box.top, box.width * box.height)


def row_runs(outlines: Outlines, parts: tuple[Part, ...], box: Box) -> Counts:
    """Count the runs of a mask of parts, row by row (CVAT, Label Studio).

    Args:
        outlines: As traced.
        parts: What the mask is made of.
        box: The pixels that the mask is of; it holds all parts.
    """
    y, x = _border_sides(outlines, parts, along=1)
    return count_runs((y - box.top) * box.width + x - box.left, box.width * box.height)


def _border_sides(
    outlines: Outlines, parts: tuple[Part, ...], *, along: int
) -> tuple[Int[np.ndarray, " sides"], Int[np.ndarray, " sides"]]:
    """List the horizontal (0) or vertical (1) sides of pixels on rings: where along, and across."""
    begins, ends = [], []
    for part in parts:
        for ring in part.rings:
            points = ring_points(outlines, ring)
            begins.append(points)
            ends.append(np.roll(points, -1, axis=0))
    begin, end = np.concatenate(begins), np.concatenate(ends)
    low = np.minimum(begin[:, along], end[:, along])
    lengths = np.abs(end[:, along] - begin[:, along])
    first = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(first - low, lengths)
    return place, np.repeat(begin[:, 1 - along], lengths)
