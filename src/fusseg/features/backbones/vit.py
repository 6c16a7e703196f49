"""Patch tokens of any Vision Transformer that transformers can load."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from logging import ERROR
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fusseg.config.compute import EXACT, Compute
from fusseg.core.errors import ConfigError
from fusseg.features.backbones.backbone import Backbone, check_sides, normalize_colors
from fusseg.features.backbones.hub_weights import download, has_weights
from fusseg.features.backbones.preprocessor import read_normalization


@dataclass(frozen=True)
class Family:
    """Differences between the kinds of ViT in transformers."""

    prefix_tokens: int = 1
    """Tokens before the patches, besides registers (class token, distillation token)."""
    load: Mapping[str, object] = field(default_factory=dict)
    """Settings of the constructor."""
    forward: Mapping[str, object] = field(default_factory=dict)
    """Settings of the call."""


# Weights without a pooler would get a random one, and patch tokens do not depend on it.
_NO_POOLER: dict[str, object] = {"add_pooling_layer": False}
_INTERPOLATE: dict[str, object] = {"interpolate_pos_encoding": True}

FAMILIES = {
    "vit": Family(load=_NO_POOLER, forward=_INTERPOLATE),
    "vit_msn": Family(forward=_INTERPOLATE),
    "deit": Family(prefix_tokens=2, load=_NO_POOLER, forward=_INTERPOLATE),
    "ijepa": Family(prefix_tokens=0, load=_NO_POOLER, forward=_INTERPOLATE),
    "dinov2": Family(),
    "dinov2_with_registers": Family(),
    "dinov3_vit": Family(),
}
"""Kinds of ViT by `model_type` in config.json; the first includes DINO."""

_UNUSED = "mask_token"
"""Ending of the names of tensors that do not affect the features."""
_NOTES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Entries of config.json about the origin of a model, which do not affect the features."""


def load_hub_vit(name: str, compute: Compute = EXACT) -> Backbone:
    """Load a ViT from the cache of the Hugging Face hub; fetch it first if it is missing.

    Args:
        name: Its id on the hub, such as `facebook/dino-vitb8`.
        compute: Device and precision.

    Raises:
        ConfigError: If it cannot be fetched, or `load_local_vit` refuses it.
    """
    return _load(name, download(name), compute)


def load_local_vit(name: str, compute: Compute = EXACT) -> Backbone:
    """Load a ViT from a folder with config.json and weights, as saved by transformers.

    Features are the patch tokens of the last layer after the final layer norm, without class and
    register tokens. Position embeddings are interpolated to the image size. Old weights (.bin)
    are read by torch's restricted unpickler, which runs no code.

    Args:
        name: Path of the folder.
        compute: Device and precision.

    Raises:
        ConfigError: If the folder holds no ViT of a known family, or its weights are damaged.
    """
    return _load(name, Path(name), compute)


def _load(name: str, folder: Path, compute: Compute) -> Backbone:
    family = _family(_read_json(folder / "config.json", name), name)
    path = folder / "preprocessor_config.json"
    mean, std = read_normalization(_read_json(path, name) if path.is_file() else None, path)
    model, settings = _load_model(folder, family, name)
    stride = _patch_size(settings, name)
    prefix = family.prefix_tokens + settings.get("num_register_tokens", 0)
    fingerprint = _fingerprint(model.state_dict(), settings, mean, std)
    _place(model, compute)

    def extract(
        images: UInt8[Tensor, "batch height width 3"],
    ) -> Float[Tensor, "batch dim h w"]:
        height, width = images.shape[1:3]
        check_sides(name, stride, (height, width))
        pixels = normalize_colors(compute.send(images), mean, std)
        with torch.no_grad(), compute.products():
            tokens: Tensor = model(pixel_values=pixels, **family.forward).last_hidden_state
        # Not len(images): that would fix the batch of an exported graph.
        shape = (images.shape[0], tokens.shape[2], height // stride, width // stride)
        return tokens[:, prefix:].float().cpu().transpose(1, 2).reshape(shape)

    return Backbone(
        name=name,
        fingerprint=fingerprint,
        feature_dim=settings["hidden_size"],
        stride=stride,
        center=False,
        extract=extract,
        precision="bfloat16" if compute.precision == torch.bfloat16 else "float32",
    )


def _place(model: torch.nn.Module, compute: Compute) -> None:
    """Move the weights to the device, and round those of linear layers to its precision.

    Autocast would round them to the same bits, but again in every pass. The patch convolution keeps
    its weights, because some models compute positions in the type of these weights.
    """
    model.to(compute.device)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(compute.precision)


def _family(settings: dict[str, Any], name: str) -> Family:
    kind = settings.get("model_type")
    if kind not in FAMILIES:
        raise ConfigError(
            f"backbone {name!r} has model_type {kind!r}; "
            f"it must be one of {', '.join(FAMILIES)}; export other encoders to ONNX"
        )
    return FAMILIES[kind]


def _load_model(folder: Path, family: Family, name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Load weights as float32 and all settings; refuse an incomplete set of weights."""
    from transformers import AutoModel

    if not has_weights(folder):
        raise ConfigError(
            f"backbone folder {str(folder)!r} has no weights; put model.safetensors "
            "(or pytorch_model.bin) beside its config.json"
        )
    try:
        with _silence():
            model, report = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                **family.load,
            )
    except Exception as error:  # a broken file fails in safetensors, pickle, json or torch
        raise ConfigError(
            f"weights of backbone {name!r} cannot be loaded: "
            f"{' '.join(str(error).split())[:200]}; download {str(folder)!r} again"
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(_UNUSED))
    if missing:
        raise ConfigError(
            f"weights of backbone {name!r} lack {len(missing)} tensors, such as {missing[0]!r}; "
            f"download {str(folder)!r} again"
        )
    return model.eval().requires_grad_(False), model.config.to_dict()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers from printing tables and progress bars while it loads."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _patch_size(settings: dict[str, Any], name: str) -> int:
    sides, channels = settings["patch_size"], settings["num_channels"]
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    if len(set(sides)) != 1 or channels != 3:
        raise ConfigError(
            f"backbone {name!r} must have square patches and 3 input channels, "
            f"got patches of {sides} and {channels} channels"
        )
    return int(sides[0])


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"backbone folder {name!r} has no {path.name}; "
            "it must hold a ViT as transformers saves it"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{str(path)!r} must hold a JSON object, got {type(settings).__name__}")
    return settings


def _fingerprint(
    weights: Mapping[str, Tensor],
    settings: Mapping[str, object],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> str:
    """Hash every tensor and setting that the features depend on."""
    kept = {key: value for key, value in settings.items() if key not in _NOTES}
    described = json.dumps(["vit 1", kept, mean, std], sort_keys=True, default=str)
    digest = sha256(described.encode())
    for key, tensor in sorted(weights.items()):
        if not key.endswith(_UNUSED):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
