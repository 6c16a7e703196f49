"""Run-length codes of masks: numbers of pixels that are off and on the mask, in turn."""

import numpy as np
from jaxtyping import Bool, Int

from fusseg.export.annotations.outlines import Box, Outlines, Part, ring_points

_CHUNK, _MORE, _SIGN, _FIRST = 31, 32, 16, 48
_MAX_CHUNKS = 7
"""Largest number of characters of one count: 5 bits each, enough for 32-bit counts."""

Counts = Int[np.ndarray, " runs"]


def column_runs(outlines: Outlines, parts: tuple[Part, ...], box: Box) -> Counts:
    """Compute the runs of a mask of parts, column by column (COCO).

    Args:
        outlines: Outlines of the image, not simplified.
        parts: Parts that the mask covers.
        box: Rectangle of the mask, which contains all parts.
    """
    x, y = _border_sides(outlines, parts, along=0)
    return count_runs((x - box.left) * box.height + y - box.top, box.width * box.height)


def row_runs(outlines: Outlines, parts: tuple[Part, ...], box: Box) -> Counts:
    """Compute the runs of a mask of parts, row by row (CVAT, Label Studio).

    Args:
        outlines: Outlines of the image, not simplified.
        parts: Parts that the mask covers.
        box: Rectangle of the mask, which contains all parts.
    """
    y, x = _border_sides(outlines, parts, along=1)
    return count_runs((y - box.top) * box.width + x - box.left, box.width * box.height)


def count_runs(changes: Int[np.ndarray, " changes"], size: int) -> Counts:
    """Compute the runs of a mask, off first: the uncompressed code of COCO, and that of CVAT.

    Args:
        changes: Pixel indices at which the mask begins or ends, unsorted. An index that occurs
            twice, because the mask ends and begins again there, does not count.
        size: Number of pixels.
    """
    places, times = np.unique(changes, return_counts=True)
    places = places[times % 2 == 1]
    counts: Counts = np.diff(places, prepend=0, append=size)
    return counts[:-1] if len(places) and places[-1] == size else counts


def fill_runs(counts: Counts) -> Bool[np.ndarray, " pixels"]:
    """Draw a mask from its runs, in the order of the pixels."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def compress_counts(counts: Counts) -> str:
    """Write counts as COCO's compressed code.

    From the fourth count on, the difference to the count two places before is written. A number is
    written in characters of 5 bits, lowest first, each with a bit that tells whether more follow.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    code = np.zeros((len(counts), _MAX_CHUNKS), np.uint8)
    going = np.ones(len(counts), bool)
    used = np.zeros(code.shape, bool)
    for place in range(_MAX_CHUNKS):
        chunk = rest & _CHUNK
        rest = rest >> 5
        more = np.where(chunk & _SIGN != 0, rest != -1, rest != 0)
        code[:, place] = chunk + np.where(more, _MORE, 0) + _FIRST
        used[:, place] = going
        going &= more
    return code[used].tobytes().decode("ascii")


def _border_sides(
    outlines: Outlines, parts: tuple[Part, ...], *, along: int
) -> tuple[Int[np.ndarray, " sides"], Int[np.ndarray, " sides"]]:
    """List the horizontal (0) or vertical (1) pixel sides of rings: positions along and across."""
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
