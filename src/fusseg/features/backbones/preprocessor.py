"""The normalization that a model of transformers expects, from its `preprocessor_config.json`."""

import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fusseg.core.errors import ConfigError
from fusseg.features.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, float, float]
"""One number per channel: red, green, blue."""

_RESCALE = 1 / 255
_OTHER_STEPS = ("do_flip_channel_order", "rescale_offset", "offset")
"""Further steps of some processors; none of the known kinds of ViT needs them."""


def read_normalization(settings: Mapping[str, Any] | None, path: Path) -> tuple[Triple, Triple]:
    """Find the mean and the standard deviation of each channel, on the scale [0, 1].

    As in transformers, pixels in [0, 255] are multiplied by `rescale_factor` unless `do_rescale` is
    false, then normalized unless `do_normalize` is false. A single number stands for all three
    channels. Sizes and crops are ignored: `data.image_size` and `data.fit` decide them.

    Args:
        settings: Content of the file; None: there is no file, and ImageNet's values are used.
        path: The file, for errors.

    Raises:
        ConfigError: If a value is out of range or missing, or the file asks for other steps.

    Examples:
        >>> settings = {"image_mean": 0.5, "image_std": 0.5}
        >>> read_normalization(settings, Path("preprocessor_config.json"))
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    if settings is None:
        return IMAGENET_MEAN, IMAGENET_STD
    for name in _OTHER_STEPS:
        if settings.get(name):
            raise ConfigError(
                f"{str(path)!r} asks for {name}, which fusseg does not support; export the model "
                "to ONNX with this step inside"
            )
    factor = _factor(settings, path)
    if not _switch(settings, "do_normalize", path):
        means, deviations = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        means, deviations = _means_and_deviations(settings, path)
    if factor is None:
        return means, deviations
    # (255 * factor * share - mean) / deviation, written as a normalization of the share.
    scale = 255 * factor
    return _triple([mean / scale for mean in means]), _triple([std / scale for std in deviations])


def _means_and_deviations(settings: Mapping[str, Any], path: Path) -> tuple[Triple, Triple]:
    found = [settings.get(name) for name in ("image_mean", "image_std")]
    if None in found:
        raise ConfigError(
            f"{str(path)!r} must hold image_mean and image_std (the default of a missing one "
            "differs between processors), or do_normalize = false; got image_mean "
            f"{found[0]} and image_std {found[1]}"
        )
    mean, std = (tuple(value) if isinstance(value, list) else (value,) * 3 for value in found)
    numbers = all(map(_is_number, (*mean, *std)))
    if not numbers or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(
            f"{str(path)!r} must hold 3 means and 3 standard deviations above 0, or one of each "
            f"for all channels, got image_mean {mean} and image_std {std}"
        )
    return _triple(mean), _triple(std)


def _triple(values: Iterable[Any]) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue


def _factor(settings: Mapping[str, Any], path: Path) -> float | None:
    """Find the factor of pixels in [0, 255]; None: the usual 1 / 255."""
    if not _switch(settings, "do_rescale", path):
        return 1.0
    factor = settings.get("rescale_factor")
    factor = _RESCALE if factor is None else factor
    if not _is_number(factor) or factor <= 0:
        raise ConfigError(f"rescale_factor must be a number above 0, got {factor!r}: {path}")
    # Files hold it with different numbers of digits.
    return None if math.isclose(factor, _RESCALE, rel_tol=1e-6) else float(factor)


def _switch(settings: Mapping[str, Any], name: str, path: Path) -> bool:
    value = settings.get(name)
    if value is None:
        return True
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}: {path}")
    return value


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Compared before it is converted: a very long whole number has no float.
    return abs(value) <= sys.float_info.max
