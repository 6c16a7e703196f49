"""Choose the size at which the backbone sees an image, and its tiles."""

import math
from dataclasses import dataclass

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.data.decoding import MAX_PIXELS
from fusseg.features.backbones.backbone import Backbone
from fusseg.prediction.tiling import Tiling

REFINEMENTS = ("none", "guided", "crf")

MAX_AREA = 8
"""Largest area that the backbone sees at once, in training areas; larger images are tiled."""
MAX_AT_ONCE = 2**20
"""Most pixels that the backbone sees at once, to limit memory; a training size may exceed it."""
TILE = 2
"""Side of a tile, in multiples of the training size."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of a prediction.

    >>> PredictOptions(refine="guided", batch=4)
    PredictOptions(scale=None, tile=None, refine='guided', batch=4)
    >>> PredictOptions(refine="gided")
    Traceback (most recent call last):
    ...
    fusseg.core.errors.ConfigError: unknown refinement 'gided'; did you mean 'guided'?
    """

    scale: float | None = None
    """Pixels that the backbone sees per pixel of the image; None: as large as in training."""
    tile: int | None = None
    """Longest side in pixels that the backbone sees at once; None: chosen by the training size."""
    refine: str = "none"
    """Method to align region borders with image edges: `none`, `guided` or `crf`."""
    batch: int = 1
    """Images, or tiles of one image, per forward pass of the backbone."""

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
    """How the backbone sees one image."""

    size: tuple[int, int]
    """Height and width that the image is resized to."""
    tiling: Tiling


def view_image(
    shape: tuple[int, int], data: DataConfig, backbone: Backbone, options: PredictOptions
) -> Viewing:
    """Choose how the backbone sees an image of a given shape.

    Without a scale, the image is seen as in training: resized to just cover the training size
    (`fit = "crop"`, but nothing is cut off), or stretched to it. It is not enlarged beyond
    `MAX_AREA` times the training area.

    Args:
        shape: Height and width of the image.
        data: Image size and fit of training.
        backbone: The backbone, with its stride and, if any, its fixed size.
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
        # Round to whole pixels first, then to whole strides.
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
    """Count the pixels that rounding to the stride may add to an image."""
    return (seen[0] + seen[1]) * backbone.stride
