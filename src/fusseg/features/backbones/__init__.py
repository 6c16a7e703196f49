"""The table of frozen backbones; adding one is one loader and one line."""

import re
from collections.abc import Callable
from pathlib import Path

from fusseg.config.compute import EXACT, Compute, settle_in_child
from fusseg.config.schema import Grid
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.features.backbones.backbone import Backbone, check_image_size
from fusseg.features.backbones.filterbank import load_filterbank
from fusseg.features.backbones.onnx_backbone import load_onnx, onnx_path
from fusseg.features.backbones.vit import load_hub_vit, load_local_vit

__all__ = ["BACKBONES", "Backbone", "check_backbone_name", "check_image_size", "load_backbone"]

BACKBONES: dict[str, Callable[[str, Compute], Backbone]] = {
    "filterbank": lambda name, _: load_filterbank(name),
    "onnx:PATH": lambda name, _: load_onnx(name),
    "FOLDER": load_local_vit,
    "OWNER/MODEL": load_hub_vit,
}
"""Loader of each form that `backbone.name` can take; each is given the name as written, and with
what to compute. Those that leave it out run in float32 on the processor."""


def load_backbone(name: str, compute: Compute = EXACT, grid: Grid | None = None) -> Backbone:
    """Load a frozen backbone by its name.

    Args:
        name: `filterbank`, `onnx:PATH`, the local folder of a ViT, or its id on the Hugging Face
            hub such as `facebook/dino-vitb8`. A folder goes before a hub id of the same name.
        compute: Device and precision of a ViT; the others run in float32 on the processor.
        grid: How the tokens of an ONNX file lie in the image; None: it gives a map.

    Raises:
        ConfigError: If there is no such backbone, or it cannot be loaded.
    """
    settle_in_child()
    form = _form(name)
    if grid is None:
        return BACKBONES[form](name, compute)
    if form != "onnx:PATH":
        raise ConfigError(
            f"backbone.grid is for ONNX files that give tokens, got backbone {name!r}; drop it"
        )
    return load_onnx(name, grid)


def check_backbone_name(name: str) -> None:
    """Refuse a name that no backbone has here; nothing is loaded or downloaded.

    Raises:
        ConfigError: If it has none of the forms of `load_backbone`, or a path leads nowhere.
    """
    if _form(name) == "onnx:PATH":
        onnx_path(name)


def _form(name: str) -> str:
    """Tell which row of the table a name belongs to."""
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
