"""How large the backbone sees an image, and in which tiles."""

import math
from dataclasses import dataclass

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.data.decoding import MAX_PIXELS
from fusseg.features.backbones.backbone import Backbone
from fusseg.prediction.tiling import Tiling

REFINEMENTS = ("none", "guided", "crf")

MAX_AREA = 8
"""Pixels that the backbone sees at once, in multiples of the training size; more are tiled."""
MAX_AT_ONCE = 2**20
"""Pixels that the backbone sees at once, for memory; only a larger training size goes beyond."""
TILE = 2
"""Sides of a tile, in multiples of the training size."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What can be chosen for a prediction; results depend on all of it."""

    scale: float | None = None
    """Pixels that the backbone sees per pixel of the image; None: as large as in training."""
    tile: int | None = None
    """Largest side in pixels that the backbone sees at once; None: by the training size."""
    refine: str = "none"
    """What brings the borders of regions to the edges of the image: `none`, `guided` or `crf`."""
    batch: int = 1
    """Images, or tiles of one, per forward pass of the backbone."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if self.scale is not None and not 0 < self.scale <= 4:
            raise ConfigError(f"the scale must lie above 0 and up to 4, got {self.scale}")
        if self.tile is not None and self.tile < 1:
            raise ConfigError(f"the tile must be at least 1 pixel, got {self.tile}")
        if self.refine not in REFINEMENTS:
            raise ConfigError(
                f"unknown refinement {self.refine!r}; {nearest_name(self.refine, REFINEMENTS)}"
            )
        if not 1 <= self.batch <= 10_000:
            raise ConfigError(f"the batch must lie in 1 to 10000, got {self.batch}")


@dataclass(frozen=True)
class Viewing:
    """How one image is seen."""

    size: tuple[int, int]
    """Height and width that it is brought to."""
    tiling: Tiling


def view_image(
    shape: tuple[int, int], data: DataConfig, backbone: Backbone, options: PredictOptions
) -> Viewing:
    """Say how the backbone sees an image of a shape.

    Without a scale it is seen as in training: as large as it needs to be to cover the training
    size (`fit = "crop"`, but nothing is cut off), or stretched to it. It is not enlarged beyond
    `MAX_AREA` times the training size.

    Args:
        shape: Height and width of the image.
        data: Size and fit of training.
        backbone: Its stride, and the size it may need.
        options: Scale and tile.

    Raises:
        ConfigError: If the scale makes the image too large, or the tile does not suit the backbone.
    """
    stride, fixed = backbone.stride, backbone.only_size(data.image_size)
    seen = _seen_size(shape, data, fixed, options.scale)
    largest = _tile_size(data, backbone, options.tile, seen)
    height, width = (max(1, round(side / stride)) for side in seen)
    if fixed is not None:
        height, width = max(height, fixed[0] // stride), max(width, fixed[1] // stride)
    if height * width * stride**2 > MAX_PIXELS:
        raise ConfigError(
            f"at scale {options.scale} the backbone would see {height * stride} x "
            f"{width * stride} pixels, more than {MAX_PIXELS}; lower the scale"
        )
    tile = (min(height, largest[0] // stride), min(width, largest[1] // stride))
    return Viewing((height * stride, width * stride), Tiling((height, width), tile))


def _seen_size(
    shape: tuple[int, int],
    data: DataConfig,
    fixed: tuple[int, int] | None,
    scale: float | None,
) -> tuple[float, float]:
    size = data.image_size
    if scale is None:
        if data.fit == "stretch" or fixed is not None:
            return float(size[0]), float(size[1])
        cover = max(size[0] / shape[0], size[1] / shape[1])
        enlarged = math.sqrt(MAX_AREA * size[0] * size[1] / (shape[0] * shape[1]))
        scale = min(cover, max(1.0, enlarged))
        # To whole pixels first and to whole strides after it, as ever.
        return float(round(shape[0] * scale)), float(round(shape[1] * scale))
    return shape[0] * scale, shape[1] * scale


def _tile_size(
    data: DataConfig, backbone: Backbone, tile: int | None, seen: tuple[float, float]
) -> tuple[int, int]:
    only = backbone.only_size(data.image_size)
    if only is not None:
        if tile is not None:
            raise ConfigError(
                f"backbone {backbone.name!r} takes images of {list(only)} only, which is the size "
                f"of its tiles; drop the tile of {tile}"
            )
        return only
    if tile is not None:
        if tile < backbone.stride:
            raise ConfigError(
                f"the tile must be at least the backbone's stride of {backbone.stride}, got {tile}"
            )
        return tile, tile
    height, width = data.image_size
    area = height * width
    if seen[0] * seen[1] <= max(area, min(MAX_AREA * area, MAX_AT_ONCE)) + _rim(seen, backbone):
        return round(seen[0]) + backbone.stride, round(seen[1]) + backbone.stride
    times = TILE if TILE**2 * area <= MAX_AT_ONCE else 1
    return times * height, times * width


def _rim(seen: tuple[float, float], backbone: Backbone) -> float:
    """Count the pixels by which rounding to the stride may make an image larger."""
    return (seen[0] + seen[1]) * backbone.stride
