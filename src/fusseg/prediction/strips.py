"""Assign every pixel to its region, strip by strip, from bands of codes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fusseg.runs.regions import Regions
from fusseg.segmentation.assignment import Segmenter, Strip, cosines, segment

STRIP_BYTES = 2**27
"""Memory for the similarities of a strip, upsampled to the width of the image."""
_LINES = 128
"""Rows of pixels counted at a time: counting takes 20 times the memory of the regions."""


@dataclass(frozen=True)
class Assigned:
    """The region of every pixel, with sums for its confidence."""

    regions: UInt8[np.ndarray, "height width"]
    pixels: Int[np.ndarray, "256"]
    """Number of pixels of each index."""
    margins: Float[np.ndarray, "256"]
    """Sum of the margins of the pixels of each index."""


def assign_strips(
    bands: Iterator[Float[Tensor, "rows width code"]],
    map_size: tuple[int, int],
    size: tuple[int, int],
    model: Segmenter,
    regions: Regions,
) -> Assigned:
    """Assign each pixel to the region of its nearest centroid, as `assign` does for a whole image.

    Neither the map of codes nor the similarities of all pixels are in memory at once.

    Args:
        bands: Codes, in bands of rows from top to bottom.
        map_size: Rows and columns of all bands together.
        size: Height and width of the image in pixels.
        model: The model; its centroids are used.
        regions: The regions, each of one or more clusters.
    """
    (map_height, map_width), (height, width) = map_size, size
    table = np.array(regions.index_of, np.uint8)
    found = nothing_assigned(size)
    strips = list(_strips(map_height, size, model.num_scores))
    spans = [needed_rows(rows, map_height, height) for rows in strips]
    across = own_positions(range(width), width, map_width)
    for rows, span, codes in zip(strips, spans, windows(bands, spans), strict=True):
        part = segment(model, codes, size, Strip(rows, span.start, map_height)).numpy()
        found.regions[rows.start : rows.stop] = table[part]
        near = own_positions(rows, height, map_height) - span.start
        margin = position_margins(model, codes, regions)
        count(found, found.regions[rows.start : rows.stop], margin, (near, across))
    return found


def nothing_assigned(size: tuple[int, int]) -> Assigned:
    """Allocate the regions of an image, with all counts zero."""
    return Assigned(np.empty(size, np.uint8), np.zeros(256, np.int64), np.zeros(256))


def count(
    found: Assigned,
    part: UInt8[np.ndarray, "part_height part_width"],
    margin: Float[np.ndarray, "height width"],
    place: tuple[Int[np.ndarray, " part_height"], Int[np.ndarray, " part_width"]],
) -> None:
    """Add the pixels of a part of an image, and their margins, to the counts.

    Args:
        found: Counts to add to.
        part: Regions of the part.
        margin: Margins of the positions.
        place: For each row and column of the part, the row and column of its position.
    """
    rows, columns = place
    for start in range(0, len(part), _LINES):
        lines = slice(start, start + _LINES)
        flat = part[lines].ravel()
        own = margin[rows[lines]][:, columns].ravel()
        found.pixels[:] += np.bincount(flat, minlength=256)
        found.margins[:] += np.bincount(flat, own, minlength=256)


def own_positions(pixels: range, length: int, positions: int) -> Int[np.ndarray, " pixels"]:
    """Return the position that each of a range of pixels along one side lies in."""
    places = np.arange(pixels.start, pixels.stop)
    if length < positions:
        # Of the several positions that a pixel covers, the one with the pixel's center.
        return ((2 * places + 1) * positions) // (2 * length)
    return (places * positions) // length


def windows(
    bands: Iterator[Float[Tensor, "rows width code"]], spans: Sequence[range]
) -> Iterator[Float[Tensor, "span width code"]]:
    """Regroup bands of rows into spans that may overlap; rows before a span are released.

    Args:
        bands: Bands of rows from top to bottom.
        spans: Rows of each window; starts and stops never decrease.
    """
    held, first = next(bands), 0
    for span in spans:
        held, first = _from_row(held, first, span.start)
        while first + len(held) < span.stop:
            held, first = _from_row(torch.cat([held, next(bands)]), first, span.start)
        yield held[: len(span)]


def _from_row(
    held: Float[Tensor, "rows width code"], first: int, start: int
) -> tuple[Float[Tensor, "rest width code"], int]:
    """Release rows before a start, which may lie beyond all the rows held."""
    passed = min(len(held), start - first)
    return held[passed:], first + passed


def needed_rows(rows: range, map_height: int, height: int) -> range:
    """Return the rows of a feature map that are needed to upsample to some rows of pixels."""
    first, last = (
        min(max((row + 0.5) * (map_height / height) - 0.5, 0.0), map_height - 1.0)
        for row in (rows.start, rows.stop - 1)
    )
    return range(int(first), min(int(last) + 2, map_height))


def position_margins(
    model: Segmenter, codes: Float[Tensor, "height width code"], regions: Regions
) -> Float[np.ndarray, "height width"]:
    """Compute each position's margin: its cosine with its own region minus that with the next.

    The cosine with a region of several clusters is that with the nearest one. With a single region
    the margin is 0.
    """
    own = cosines(model, codes)
    if len(regions.regions) < 2:
        return np.zeros(codes.shape[:2], np.float32)
    if len(regions.regions) < regions.num_clusters:
        by_region = [own[:, list(region.clusters)].amax(dim=1) for region in regions.regions]
        own = torch.stack(by_region, dim=1)
    nearest = own.topk(2, dim=1).values
    return (nearest[:, 0] - nearest[:, 1]).reshape(codes.shape[:2]).numpy()


def _strips(map_height: int, size: tuple[int, int], num_scores: int) -> Iterator[range]:
    """Cut an image into strips of rows; it stays whole if its similarities are small enough."""
    height, width = size
    lines = max(1, STRIP_BYTES // (4 * num_scores * width) - 2)
    strip = height if lines >= map_height else max(1, lines * height // map_height)
    return (range(start, min(start + strip, height)) for start in range(0, height, strip))
