"""The table of frozen backbones; adding one is one loader and one line."""

import re
from collections.abc import Callable
from pathlib import Path

from fusseg.config.compute import EXACT, Compute, settle_in_child
from fusseg.config.schema import Grid
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.features.backbones.backbone import Backbone, check_image_size
from fusseg.features.backbones.efficientnet import (
    EFFICIENTNET,
    find_weights,
    load_efficientnet,
)
from fusseg.features.backbones.filterbank import load_filterbank
from fusseg.features.backbones.onnx_backbone import load_onnx, onnx_path
from fusseg.features.backbones.vit import load_hub_vit, load_local_vit

__all__ = [
    "BACKBONES",
    "Backbone",
    "check_backbone_name",
    "check_image_size",
    "is_zoomable",
    "load_backbone",
]

BACKBONES: dict[str, Callable[[str, Compute], Backbone]] = {
    EFFICIENTNET: load_efficientnet,
    "filterbank": lambda name, _: load_filterbank(name),
    "onnx:PATH": lambda name, _: load_onnx(name),
    "FOLDER": load_local_vit,
    "OWNER/MODEL": load_hub_vit,
}
"""Loader of each form of `backbone.name`. A loader gets the name as written, and the device and
precision; loaders that ignore these run in float32 on the CPU."""


FIXED_SCALE = {"filterbank"}
"""Backbones that measure structures of a fixed size in pixels."""


def is_zoomable(name: str) -> bool:
    """Tell whether a backbone recognizes things at another size.

    Only then can the judge compare regions with those of zoomed views.
    """
    return name not in FIXED_SCALE


def load_backbone(name: str, compute: Compute = EXACT, grid: Grid | None = None) -> Backbone:
    """Load a frozen backbone by its name.

    Args:
        name: `efficientnet-lite2` (extra `efficientnet`; trained on ImageNet with labels),
            `filterbank`, `onnx:PATH`, the local folder of a ViT, or its id on the Hugging Face hub
            such as `facebook/dino-vitb8`. A folder takes precedence over a hub id.
        compute: Device and precision of EfficientNet-Lite2 or a ViT; the others run in float32 on
            the CPU.
        grid: How the tokens of an ONNX file lie in the image; None: it gives a map.

    Raises:
        ConfigError: If there is no such backbone, or it cannot be loaded.

    Examples:
        >>> backbone = load_backbone("filterbank")
        >>> backbone.stride, backbone.feature_dim
        (8, 144)
    """
    settle_in_child()
    form = _form(name)
    if grid is None:
        return BACKBONES[form](name, compute)
    if form != "onnx:PATH":
        raise ConfigError(
            f"backbone.grid is for ONNX files that give tokens, got backbone {name!r}; remove it"
        )
    return load_onnx(name, grid)


def check_backbone_name(name: str) -> None:
    """Refuse a name that cannot be a backbone; nothing is loaded or downloaded.

    Raises:
        ConfigError: If it has none of the forms of `load_backbone`, or a path or package is
            missing.
    """
    form = _form(name)
    if form == "onnx:PATH":
        onnx_path(name)
    elif form == EFFICIENTNET:
        find_weights()


def _form(name: str) -> str:
    """Find the key of `BACKBONES` for a name."""
    if name in BACKBONES:
        return name
    if name.startswith("onnx:"):
        return "onnx:PATH"
    if Path(name).is_dir():
        return "FOLDER"
    if name.endswith(".onnx"):
        raise ConfigError(f"unknown backbone {name!r}; did you mean 'onnx:{name}'?")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return "OWNER/MODEL"
    if "/" in name or "\\" in name:
        raise ConfigError(f"backbone folder {name!r} does not exist; correct backbone.name")
    raise ConfigError(f"unknown backbone {name!r}; {nearest_name(name, BACKBONES)}")
