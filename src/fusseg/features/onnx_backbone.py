"""Any encoder saved as an ONNX file, run on the CPU by onnxruntime."""

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from fusseg.errors import ConfigError, first_line
from fusseg.features.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    check_sides,
    normalize_colors,
)

PREFIX = "onnx:"
PROBE_SIZE = (224, 448)
"""Divided by every usual stride (7, 8, 14, 16, 28, 32); oblong to tell height from width."""

Forward = Callable[[Float[np.ndarray, "batch 3 height width"]], Float32[np.ndarray, "*shape"]]


@runtime_checkable
class Session(Protocol):
    """What is used here of onnxruntime's session, which comes without types."""

    def get_inputs(self) -> Sequence[Any]:
        """List name, type and shape of the inputs."""
        ...

    def get_outputs(self) -> Sequence[Any]:
        """List name, type and shape of the outputs."""
        ...

    def run(self, outputs: None, inputs: Mapping[str, object]) -> Sequence[Any]:
        """Compute all outputs."""
        ...


def onnx_path(name: str) -> Path:
    """Find the file of a backbone `onnx:PATH`.

    Raises:
        ConfigError: If it is missing.
    """
    path = Path(name.removeprefix(PREFIX))
    if not path.is_file():
        raise ConfigError(f"ONNX file {str(path)!r} does not exist; correct backbone.name")
    return path


def load_onnx(name: str) -> Backbone:
    """Load an encoder from an ONNX file.

    The file has one float32 input (batch, 3, height, width), RGB normalized by ImageNet's mean
    and standard deviation, and one float32 output (batch, dim, height / stride, width / stride).
    Dimension and stride are found by running it once. It gets as many threads as torch has.

    Args:
        name: `onnx:` and the path of the file.

    Raises:
        ConfigError: If the file is missing, is no ONNX model, or does not have that form.
    """
    path = onnx_path(name)
    session = _open_session(path)
    batch, image_size = _fixed_sides(session, path)
    forward = _forward(session, path, one_by_one=batch == 1)
    feature_dim, stride = _probe(forward, path, image_size)

    def extract(
        images: UInt8[Tensor, "batch height width 3"],
    ) -> Float[Tensor, "batch dim h w"]:
        size = (images.shape[1], images.shape[2])
        check_sides(name, stride, size, image_size)
        features = forward(normalize_colors(images).numpy())
        expected = (len(images), feature_dim, size[0] // stride, size[1] // stride)
        _check_output(features, path, expected)
        return torch.from_numpy(features)

    return Backbone(
        name=name,
        fingerprint=_fingerprint(path),
        feature_dim=feature_dim,
        stride=stride,
        center=True,
        extract=extract,
        image_size=image_size,
    )


def _open_session(path: Path) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    # Its threads would wait by spinning, on cores that decode images and write features meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session: Session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise ConfigError(
            f"ONNX file {str(path)!r} cannot be loaded: {first_line(error)}; export it again"
        ) from error
    return session


def _fixed_sides(session: Session, path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """Check what goes in and out, and read the sizes that the file fixes.

    Returns:
        The batch, and height and width; None where they are free.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ConfigError(
            f"ONNX file {str(path)!r} must have 1 input and 1 output, "
            f"got {len(inputs)} and {len(outputs)}; export the encoder alone"
        )
    if outputs[0].type != "tensor(float)":
        raise ConfigError(
            f"the output of ONNX file {str(path)!r} must be float32, got {outputs[0].type}"
        )
    shape = tuple(inputs[0].shape)
    fixed = tuple(side if isinstance(side, int) else None for side in shape)
    if inputs[0].type != "tensor(float)" or len(fixed) != 4 or fixed[1] not in {None, 3}:
        raise ConfigError(
            f"the input of ONNX file {str(path)!r} must be float32 of shape "
            f"(batch, 3, height, width), got {inputs[0].type} of shape {shape}"
        )
    batch, _, height, width = fixed
    if batch not in {None, 1} or (height is None) != (width is None):
        raise ConfigError(
            f"ONNX file {str(path)!r} may fix its batch to 1, and height and width together, "
            f"got an input of shape {shape}; export it with free dimensions"
        )
    return batch, None if height is None or width is None else (height, width)


def _forward(session: Session, path: Path, *, one_by_one: bool) -> Forward:
    """Wrap a session as a function, image by image where the file has a batch of 1."""
    name = session.get_inputs()[0].name

    def run(pixels: Float[np.ndarray, "batch 3 height width"]) -> Float32[np.ndarray, "*shape"]:
        try:
            features = session.run(None, {name: pixels})[0]
        except Exception as error:  # onnxruntime's errors share no base class
            raise ConfigError(
                f"ONNX file {str(path)!r} fails on images of {pixels.shape[2:]}: "
                f"{first_line(error)}"
            ) from error
        return np.asarray(features)

    if one_by_one:
        return lambda pixels: np.concatenate([run(image[None]) for image in pixels])
    return run


def _probe(forward: Forward, path: Path, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Find the number of channels and the stride by running one gray image."""
    height, width = image_size or PROBE_SIZE
    features = forward(np.zeros((1, 3, height, width), np.float32))
    shape = features.shape
    stride = height // shape[2] if len(shape) == 4 and shape[2] else 0
    if stride == 0 or (shape[2] * stride, shape[3] * stride) != (height, width):
        raise ConfigError(
            f"the output of ONNX file {str(path)!r} must be of shape "
            f"(batch, dim, height / stride, width / stride), got {shape} for an image of "
            f"{(height, width)}"
        )
    _check_output(features, path, shape)
    return shape[1], stride


def _check_output(
    features: Float32[np.ndarray, "*shape"], path: Path, expected: tuple[int, ...]
) -> None:
    """Refuse an output that does not fit the probe, or is not finite."""
    if features.shape != expected:
        raise ConfigError(
            f"ONNX file {str(path)!r} returned features of shape {features.shape}, "
            f"expected {expected}"
        )
    if not np.isfinite(features).all():
        raise ConfigError(
            f"ONNX file {str(path)!r} returned values that are not finite; "
            "check its weights and the normalization it expects"
        )


def _fingerprint(path: Path) -> str:
    """Hash the file, the files it keeps its weights in, and the normalization."""
    content = path.read_bytes()
    digest = sha256(f"onnx 1 {IMAGENET_MEAN} {IMAGENET_STD}".encode())
    digest.update(sha256(content).digest())
    # An entry of the protobuf map of an external tensor: key "location", value of one-byte length.
    entries = re.finditer(rb"\n\x08location\x12([\x01-\x7f])", content, re.DOTALL)
    names = {content[entry.end() : entry.end() + entry[1][0]].decode() for entry in entries}
    for name in sorted(names):
        with (path.parent / name).open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()
