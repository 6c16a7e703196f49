"""Backbones from ONNX files, run on the CPU by onnxruntime."""

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from fusseg.config.schema import Grid
from fusseg.core.errors import ConfigError, first_line
from fusseg.features.backbones.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    check_sides,
    normalize_colors,
)
from fusseg.features.backbones.onnx_layout import (
    Layout,
    Run,
    find_layout,
    lay_out,
    probe_images,
)

PREFIX = "onnx:"
TOLERANCE = 1e-3
"""Largest difference of an image's features alone and in a batch, as a share of the largest value.

A smaller difference is rounding."""
_FEW = 4
"""Positions per side of the images that are compared alone and in a batch."""


@runtime_checkable
class Session(Protocol):
    """The methods of onnxruntime's session that are used here; it has no type annotations."""

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
        ConfigError: If it does not exist.
    """
    path = Path(name.removeprefix(PREFIX))
    if not path.is_file():
        raise ConfigError(f"ONNX file {str(path)!r} does not exist; correct backbone.name")
    return path


def load_onnx(name: str, grid: Grid | None = None) -> Backbone:
    """Load an encoder from an ONNX file.

    The file has one float32 input (batch, 3, height, width), RGB normalized by ImageNet's mean
    and standard deviation, and one float32 output (batch, dim, height / stride, width / stride),
    or (batch, tokens, dim) with a grid. Dimension and stride are found by running it. Images run
    one by one if the file does not take two at once. It uses as many threads as torch.

    Args:
        name: `onnx:` and the path of the file.
        grid: How tokens lie in the image; None: the output is a map.

    Raises:
        ConfigError: If the file does not exist, is not an ONNX model, or has another form.
    """
    path = onnx_path(name)
    fingerprint = _fingerprint(path, grid)
    session = _Session(path)
    batch, fixed = _fixed_sides(session.get(), path)
    run = _runner(session, path)
    gives_tokens = len(session.get().get_outputs()[0].shape) == 3
    layout = find_layout(run, path, fixed, grid, gives_tokens=gives_tokens)
    stride, image_size = layout.stride, layout.image_size
    together = batch is None and _takes_batches(run, path, layout)

    def extract(
        images: UInt8[Tensor, "batch height width 3"],
    ) -> Float[Tensor, "batch dim h w"]:
        size = (images.shape[1], images.shape[2])
        check_sides(name, stride, size, image_size)
        pixels = normalize_colors(images).numpy()
        features = run(pixels) if together else np.concatenate([run(one[None]) for one in pixels])
        rows, columns = size[0] // stride, size[1] // stride
        if grid is not None:
            _check_output(features, path, (len(images), rows * columns, layout.feature_dim))
            features = lay_out(features, rows, columns)
        _check_output(features, path, (len(images), layout.feature_dim, rows, columns))
        return torch.from_numpy(features)

    return Backbone(
        name=name,
        fingerprint=fingerprint,
        feature_dim=layout.feature_dim,
        stride=stride,
        center=True,
        extract=extract,
        image_size=image_size,
        grid=grid,
    )


class _Session:
    """An open ONNX file, opened again in a forked child, which lacks the session's threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened, self._process = _open_session(path), os.getpid()

    def get(self) -> Session:
        """Give the session of this process."""
        if self._process != os.getpid():
            # Never freed here: that would wait for its threads forever.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._opened))
            self._opened, self._process = _open_session(self._path), os.getpid()
        return self._opened


def _open_session(path: Path) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    # Spinning threads would occupy cores that decode images and write features.
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
    """Check input and output, and read the sizes that the file fixes.

    Returns:
        The batch size, and height and width; None if they are free.
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
    last = len(fixed) == 4 and fixed[1] != 3 and fixed[3] == 3
    if last or inputs[0].type != "tensor(float)" or len(fixed) != 4 or fixed[1] not in {None, 3}:
        remedy = "; its channels are last: export it with a transposition before it" * last
        raise ConfigError(
            f"the input of ONNX file {str(path)!r} must be float32 of shape "
            f"(batch, 3, height, width), got {inputs[0].type} of shape {shape}{remedy}"
        )
    batch, _, height, width = fixed
    if batch not in {None, 1} or (height is None) != (width is None):
        raise ConfigError(
            f"ONNX file {str(path)!r} may fix only a batch of 1, and height and width together, "
            f"got an input of shape {shape}; export it with free dimensions"
        )
    return batch, None if height is None or width is None else (height, width)


def _runner(session: _Session, path: Path) -> Run:
    """Wrap a session as a function."""
    name = session.get().get_inputs()[0].name

    def run(pixels: Float[np.ndarray, "batch 3 height width"]) -> Float32[np.ndarray, "*shape"]:
        try:
            features = session.get().run(None, {name: pixels})[0]
        except Exception as error:  # onnxruntime's errors share no base class
            raise ConfigError(
                f"ONNX file {str(path)!r} fails on images of {pixels.shape[2:]}: "
                f"{first_line(error)}"
            ) from error
        return np.asarray(features)

    return run


def _takes_batches(run: Run, path: Path, layout: Layout) -> bool:
    """Tell whether two images can run at once; refuse a file in which one changes the other.

    Raises:
        ConfigError: If an image's features depend on the rest of its batch, or are not finite.
    """
    small = layout.image_size or (_FEW * layout.stride, _FEW * layout.stride)
    try:
        images = probe_images(small)
        alone = np.concatenate([run(image[None]) for image in images])
    except ConfigError:
        # The encoder has learned positions for one size, that of the probe.
        images = probe_images(layout.probe)
        alone = np.concatenate([run(image[None]) for image in images])
    _check_output(alone, path, alone.shape)
    try:
        together = run(images)
    except ConfigError:
        return False
    if together.shape != alone.shape:
        return False
    difference, largest = (float(np.abs(part).max()) for part in (together - alone, alone))
    if not difference <= TOLERANCE * largest:
        raise ConfigError(
            f"in ONNX file {str(path)!r} the features of an image depend on the other images of "
            f"its batch: they differ by {difference:.3g}, the largest is {largest:.3g}; "
            "export the encoder in evaluation mode (model.eval() in PyTorch), without batch "
            "statistics, or with a batch that is fixed to 1"
        )
    return True


def _check_output(
    features: Float32[np.ndarray, "*shape"], path: Path, expected: tuple[int, ...]
) -> None:
    """Refuse an output of another shape than expected, or with values that are not finite."""
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


def _fingerprint(path: Path, grid: Grid | None) -> str:
    """Hash the file, its external files of weights, the normalization and the grid."""
    content = path.read_bytes()
    laid_out = "" if grid is None else f" grid {grid}"
    digest = sha256(f"onnx 1 {IMAGENET_MEAN} {IMAGENET_STD}{laid_out}".encode())
    digest.update(sha256(content).digest())
    # Protobuf entries of external tensors: key "location", then a value with a one-byte length.
    entries = re.finditer(rb"\n\x08location\x12([\x01-\x7f])", content, re.DOTALL)
    names = {content[entry.end() : entry.end() + entry[1][0]].decode() for entry in entries}
    for name in sorted(names):
        with (path.parent / name).open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()
