"""The interface of frozen backbones, and checks of the image sizes they take."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fusseg.config.schema import Grid, Precision
from fusseg.core.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A frozen network from images to feature maps."""

    name: str
    """As written in `backbone.name`."""
    fingerprint: str
    """SHA-256 over weights and preprocessing, hex; equal fingerprints mean equal features."""
    feature_dim: int
    """Channels of the feature map, D' in the paper."""
    stride: int
    """Pixels per position; image sides must be multiples of it."""
    center: bool
    """Whether cosines of these features need the mean feature subtracted."""
    extract: Callable[[UInt8[Tensor, "batch height width 3"]], Float[Tensor, "batch dim h w"]]
    """RGB in [0, 255] to float32 features; normalization is inside."""
    image_size: tuple[int, int] | None = None
    """The only height and width it takes; None: any multiples of the stride."""
    precision: Precision = "float32"
    """Precision of its matrix products; never `auto`."""
    same_on_any_threads: bool = False
    """Whether features have the same bits with any number of threads."""
    grid: Grid | None = None
    """How the tokens of its file lie in the image, as `backbone.grid`."""
    origin: str | None = None
    """What its weights were trained on, and their license; None: not known, or no weights."""

    def only_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the only size of all images if training images have the given one; None: any."""
        return size if self.grid == "square" and self.image_size is None else self.image_size


def check_image_size(
    backbone: Backbone, size: tuple[int, int], key: str = "data.image_size"
) -> None:
    """Refuse an image size that the backbone cannot divide into positions.

    Args:
        backbone: The backbone that would see the images.
        size: Height and width in pixels.
        key: Setting that the size comes from.

    Raises:
        ConfigError: If a side is not a positive multiple of the stride, or the backbone takes only
            another size.
    """
    check_sides(backbone.name, backbone.stride, size, backbone.image_size, key)
    if backbone.grid == "square" and size[0] != size[1]:
        raise ConfigError(
            f"the tokens of backbone {backbone.name!r} form a square (backbone.grid), so it takes "
            f"square images, got {list(size)}; set {key} to {[min(size)] * 2}, or backbone.grid to "
            "[rows, columns]"
        )


def check_sides(
    name: str,
    stride: int,
    size: tuple[int, int],
    only: tuple[int, int] | None = None,
    key: str = "data.image_size",
) -> None:
    """Refuse image sides that are not positive multiples of a stride, or not the only size taken.

    Args:
        name: Name of the backbone, for the message.
        stride: Pixels per position.
        size: Height and width in pixels.
        only: The only size that the backbone takes; None: any multiples of the stride.
        key: Setting that the size comes from.

    Raises:
        ConfigError: If they are; the message suggests the nearest valid sizes.

    Examples:
        >>> check_sides("vit", 8, (100, 160))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        fusseg.core.errors.ConfigError: backbone 'vit' needs image sides that are multiples of 8...
    """
    if only is not None and size != only:
        raise ConfigError(
            f"backbone {name!r} takes only images of {list(only)}, got {list(size)}; set {key} to "
            f"{list(only)}"
        )
    height, width = size
    if min(size) > 0 and height % stride == 0 and width % stride == 0:
        return
    smaller = [max(side // stride, 1) * stride for side in size]
    larger = [max(-(-side // stride), 1) * stride for side in size]
    nearest = f"{smaller}" if smaller == larger else f"{smaller} or {larger}"
    raise ConfigError(
        f"backbone {name!r} needs image sides that are multiples of {stride}, got {list(size)}; "
        f"set {key} to {nearest}"
    )


def normalize_colors(
    images: UInt8[Tensor, "batch height width 3"],
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Float[Tensor, "batch 3 height width"]:
    """Normalize RGB in [0, 255] as a pretrained network expects it.

    Args:
        images: Pixels, channels last.
        mean: Mean of each channel on the scale [0, 1].
        std: Standard deviation of each channel on the scale [0, 1].
    """
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    shape = (1, 3, 1, 1)
    means, deviations = (torch.tensor(values, device=images.device) for values in (mean, std))
    pixels.div_(255).sub_(means.view(shape)).div_(deviations.view(shape))
    return pixels
