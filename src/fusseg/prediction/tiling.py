"""Cut a large image into tiles, and blend their codes into one map."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

OVERLAP = 4
"""Neighboring tiles overlap by at least 1 / OVERLAP of their side."""

Pixels = UInt8[np.ndarray, "_height _width 3"]
"""RGB in [0, 255]."""
Encode = Callable[[Sequence[Pixels]], Float[Tensor, "images h w code"]]
"""Computes the codes of a few images of one size."""


Bands = Iterator[Float[Tensor, "rows columns code"]]
"""Rows of a map, from top to bottom."""
Track = Callable[[Bands, int], Bands]
"""Wraps the bands of one image, given their number, for example in a progress bar."""


def untracked(bands: Bands, _number: int) -> Bands:
    """Return the bands unchanged, without progress."""
    return bands


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles, in positions of its feature map."""

    size: tuple[int, int]
    """Height and width of the map."""
    tile: tuple[int, int]
    """Height and width of every tile; no larger than the map."""

    @property
    def starts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First row of each row of tiles, and first column of each column of tiles."""
        (height, width), (tile_height, tile_width) = self.size, self.tile
        return place_tiles(height, tile_height), place_tiles(width, tile_width)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        rows, columns = self.starts
        return len(rows) * len(columns)


def place_tiles(length: int, tile: int) -> tuple[int, ...]:
    """Place tiles evenly along one side: the fewest that overlap by at least a quarter.

    >>> place_tiles(length=20, tile=8)
    (0, 6, 12)

    Args:
        length: Number of positions to cover.
        tile: Number of positions of a tile, at most `length`.
    """
    step = max(1, tile - -(-tile // OVERLAP))
    gaps = -(-(length - tile) // step)
    return tuple(round(number * (length - tile) / max(1, gaps)) for number in range(gaps + 1))


def blending_weights(starts: Sequence[int], tile: int) -> Float[Tensor, "tiles positions"]:
    """Compute the weights of each tile's positions along one side; they sum to 1 at any position.

    The weight falls off towards the ends of a tile, which lack half of their surroundings: it is
    the squared sine of the depth into the tile, over a quarter of its side.

    Args:
        starts: First position of each tile.
        tile: Number of positions of a tile.
    """
    ramp = max(1, tile // OVERLAP)
    inside = torch.arange(tile, dtype=torch.float64) + 0.5
    depth = torch.minimum(inside, tile - inside).clamp(max=ramp) / ramp
    profile = torch.sin(depth * (torch.pi / 2)).square()
    length = starts[-1] + tile
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + tile] += profile
    shares = [profile / total[start : start + tile] for start in starts]
    return torch.stack(shares).float()


def code_bands(
    seen: Pixels, tiling: Tiling, stride: int, encode: Encode, batch: int
) -> Iterator[Float[Tensor, "rows columns code"]]:
    """Encode an image tile by tile; yield the rows of its map from top to bottom as they finish.

    Only one row of tiles is in memory. The codes of a single tile are returned unchanged.

    Args:
        seen: The image as the backbone sees it.
        tiling: How the image is cut.
        stride: Pixels per position.
        encode: Backbone and head.
        batch: Number of tiles to encode at a time.
    """
    (tops, lefts), (tile_height, tile_width) = tiling.starts, tiling.tile
    down, across = blending_weights(tops, tile_height), blending_weights(lefts, tile_width)
    band = torch.zeros(0, 0, 0)
    for number, top in enumerate(tops):
        fresh = _encode_row(seen, (top, lefts), tiling, stride, across, encode, batch)
        fresh *= down[number][:, None, None]
        # The rest of the tiles above overlaps the first rows of these.
        if number:
            fresh[: len(band)] += band
        done = tops[number + 1] - top if number + 1 < len(tops) else tile_height
        yield fresh[:done]
        band = fresh[done:]


def _encode_row(
    seen: Pixels,
    place: tuple[int, Sequence[int]],
    tiling: Tiling,
    stride: int,
    across: Float[Tensor, "tiles positions"],
    encode: Encode,
    batch: int,
) -> Float[Tensor, "rows columns code"]:
    top, lefts = place
    height, width = tiling.tile
    rows = seen[top * stride : (top + height) * stride]
    row = torch.zeros(0)
    for start in range(0, len(lefts), batch):
        part = lefts[start : start + batch]
        tiles = [rows[:, left * stride : (left + width) * stride] for left in part]
        for number, codes in enumerate(encode(tiles), start):
            if not row.numel():
                row = torch.zeros(height, tiling.size[1], codes.shape[-1])
            left = lefts[number]
            row[:, left : left + width] += codes * across[number][:, None]
    return row
