"""Make regions follow the edges of the image, by a dense CRF or a guided filter.

Guided filter: He, Sun & Tang, Guided Image Filtering, PAMI 2013. Its coefficients are computed at
the size that the backbone sees and upsampled to the size of the image (He & Sun, Fast Guided
Filter, arXiv 1505.00996).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fusseg.core.errors import ConfigError
from fusseg.prediction.strips import (
    Assigned,
    count,
    needed_rows,
    nothing_assigned,
    own_positions,
    position_margins,
    windows,
)
from fusseg.prediction.tiling import Pixels
from fusseg.runs.regions import Regions
from fusseg.segmentation.assignment import Segmenter, cosines, pixel_cosines

MAX_CRF_PIXELS = 2_000_000
"""Larger images are refused: the CRF processes all pixels at once."""
RADIUS = 8
"""Radius of the guided filter's window, in pixels that the backbone sees."""
FLATNESS = 1e-3
"""Variance of lightness, on a scale from 0 to 1, below which the guide counts as flat."""
BLOCK_VALUES = 2**23
"""Number of cosines filtered at a time, over all clusters."""
MAX_BLOCK, MIN_BLOCK = 512, 64
"""Side of a block filtered at a time, in pixels that the backbone sees."""
_SPREAD = 2 * RADIUS + 1
"""Reach of the filter around a pixel: two windows, and one pixel for interpolation."""


def refine_crf(
    image: Pixels,
    bands: Iterator[Float[Tensor, "rows width code"]],
    model: Segmenter,
    regions: Regions,
) -> Assigned:
    """Assign each pixel to its most likely region under a dense CRF over the whole image.

    Args:
        image: RGB image at its own size.
        bands: Codes, in bands of rows from top to bottom.
        model: The model; its centroids are used.
        regions: The regions, each of one or more clusters.

    Raises:
        ConfigError: If the image is too large.
    """
    height, width, _ = image.shape
    if height * width > MAX_CRF_PIXELS:
        raise ConfigError(
            f"the CRF takes images of up to {MAX_CRF_PIXELS} pixels, got {width} x {height}; use "
            "--refine guided"
        )
    # Imported here because its parts of scipy are slow to import and few predictions refine.
    from fusseg.evaluation.crf import refine

    codes = torch.cat(list(bands))
    clusters = refine(image, pixel_cosines(model, codes, (height, width)).numpy())
    found = np.array(regions.index_of, np.uint8)[clusters]
    rows = own_positions(range(height), height, codes.shape[0])
    columns = own_positions(range(width), width, codes.shape[1])
    assigned = nothing_assigned((height, width))
    assigned.regions[:] = found
    count(assigned, found, position_margins(model, codes, regions), (rows, columns))
    return assigned


def refine_guided(
    image: Pixels,
    seen: Pixels,
    bands: Iterator[Float[Tensor, "rows width code"]],
    map_size: tuple[int, int],
    model: Segmenter,
    regions: Regions,
) -> Assigned:
    """Filter each cluster's cosines, guided by the image's lightness, and take the largest.

    Args:
        image: RGB image at its own size.
        seen: The image as the backbone sees it.
        bands: Codes, in bands of rows from top to bottom.
        map_size: Rows and columns of all bands together.
        model: The model; its centroids are used.
        regions: The regions, each of one or more clusters.
    """
    seen_size = (seen.shape[0], seen.shape[1])
    side = int((BLOCK_VALUES / model.num_scores) ** 0.5)
    side = max(MIN_BLOCK, min(side, MAX_BLOCK))
    rows = _blocks(image.shape[0], seen_size[0], side)
    columns = _blocks(image.shape[1], seen_size[1], side)
    spans = [needed_rows(row.around, map_size[0], seen_size[0]) for row in rows]
    table = np.array(regions.index_of, np.uint8)
    assigned = nothing_assigned((image.shape[0], image.shape[1]))
    for row, span, codes in zip(rows, spans, windows(bands, spans), strict=True):
        margin = position_margins(model, codes, regions)
        near = own_positions(row.own, image.shape[0], map_size[0]) - span.start
        for column in columns:
            cosine = _cosines_around(codes, span.start, (row, column), map_size, seen_size, model)
            guide = _lightness(seen[_slice(row.around), _slice(column.around)])
            coefficients = guided_coefficients(guide, cosine)
            area = (_slice(row.own), _slice(column.own))
            own = assigned.regions[area]
            _apply(coefficients, image[area], (row, column), table, own)
            across = own_positions(column.own, image.shape[1], map_size[1])
            count(assigned, own, margin, (near, across))
    return assigned


def guided_coefficients(
    guide: Float[Tensor, "height width"], values: Float[Tensor, "clusters height width"]
) -> tuple[Float[Tensor, "clusters height width"], Float[Tensor, "clusters height width"]]:
    """Fit the values by a linear function of the guide in every window, and average the fits.

    Returns:
        Slope and offset at each pixel; the filtered value is slope * guide + offset.
    """
    mean, mean_values = _box(guide[None]), _box(values)
    variance = _box((guide * guide)[None]) - mean * mean
    slope = (_box(guide * values) - mean * mean_values) / (variance + FLATNESS)
    return _box(slope), _box(mean_values - slope * mean)


@dataclass(frozen=True)
class _Block:
    """A block along one side of the image."""

    own: range
    """Pixels of the image."""
    around: range
    """Pixels that the backbone sees, extended by the reach of the filter."""
    scale: float
    """Seen pixels per pixel."""


def _blocks(length: int, seen: int, side: int) -> list[_Block]:
    """Cut one side into blocks of at most `side` seen pixels and 4 * `side` image pixels."""
    num = max(-(-seen // side), -(-length // (4 * side)))
    bounds = [length * number // num for number in range(num + 1)]
    scale = seen / length
    return [
        _Block(
            range(start, stop),
            range(max(0, int(start * scale) - _SPREAD), min(seen, int(stop * scale) + _SPREAD)),
            scale,
        )
        for start, stop in pairwise(bounds)
        if stop > start
    ]


def _cosines_around(
    codes: Float[Tensor, "rows columns code"],
    first: int,
    block: tuple[_Block, _Block],
    map_size: tuple[int, int],
    seen_size: tuple[int, int],
    model: Segmenter,
) -> Float[Tensor, "regions height width"]:
    """Upsample codes to the seen pixels of a block; compute their cosines with the regions."""
    rows, columns = (part.around for part in block)
    tall = _between(codes, 0, rows, map_size[0] / seen_size[0], (first, map_size[0]))
    wide = _between(tall, 1, columns, map_size[1] / seen_size[1], (0, map_size[1]))
    height, width, _ = wide.shape
    return cosines(model, wide).T.reshape(-1, height, width)


def _apply(
    coefficients: tuple[Float[Tensor, "clusters height width"], ...],
    image: Pixels,
    block: tuple[_Block, _Block],
    table: UInt8[np.ndarray, " clusters"],
    out: UInt8[np.ndarray, "rows columns"],
) -> None:
    """Upsample slopes and offsets to the image; write each pixel's region of largest value."""
    row, column = block
    wide = [
        _between(part, 2, column.own, column.scale, (column.around.start, column.around.stop))
        for part in coefficients
    ]
    strip = max(1, 2**22 // (len(wide[0]) * len(column.own)))
    for start in range(0, len(row.own), strip):
        lines = row.own[start : start + strip]
        slope, offset = (
            _between(part, 1, lines, row.scale, (row.around.start, row.around.stop))
            for part in wide
        )
        guide = _lightness(image[start : start + strip])
        values = torch.addcmul(offset, slope, guide)
        out[start : start + strip] = table[values.argmax(dim=0).numpy()]


def _between(
    values: Tensor, dim: int, targets: range, scale: float, held: tuple[int, int]
) -> Tensor:
    """Interpolate along one side, at the centers of target pixels.

    Args:
        values: Values on the coarser grid.
        dim: Dimension to interpolate along.
        targets: Pixels of the finer grid.
        scale: Cells of the coarser grid per pixel of the finer one.
        held: First available cell of the coarser grid, and the end of the grid.
    """
    first, end = held
    place = (torch.arange(targets.start, targets.stop, dtype=torch.float64) + 0.5) * scale - 0.5
    place = place.clamp(first, end - 1)
    low = place.floor().long()
    shape = [1] * values.ndim
    shape[dim] = -1
    weight = (place - low).float().reshape(shape)
    high = (low + 1).clamp(max=end - 1)
    return torch.lerp(
        values.index_select(dim, low - first), values.index_select(dim, high - first), weight
    )


def _box(values: Float[Tensor, "channels height width"]) -> Float[Tensor, "channels height width"]:
    """Average over square windows, using only pixels inside the image."""
    side = 2 * RADIUS + 1
    tall = avg_pool2d(
        values[None], (side, 1), stride=1, padding=(RADIUS, 0), count_include_pad=False
    )
    return avg_pool2d(tall, (1, side), stride=1, padding=(0, RADIUS), count_include_pad=False)[0]


def _lightness(image: Pixels) -> Float[Tensor, "height width"]:
    return torch.from_numpy(np.ascontiguousarray(image)).float().mean(dim=2) / 255


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
