"""The middle part of the exported graph: the backbone, traced from torch or from its ONNX file."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, version_converter
from torch import Tensor

from fusseg.config.schema import Grid
from fusseg.core.errors import ConfigError, first_line
from fusseg.export.onnx.graph_text import chain, parse_graph
from fusseg.features.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from fusseg.features.backbones.filterbank import filterbank_function
from fusseg.features.backbones.onnx_backbone import PREFIX

OPSET = 18
"""Version of ONNX's operators in traced graphs."""
OLDEST_OPSET = 15
"""Oldest version of ONNX's operators in which the parts around the backbone can be written."""
TRACED = (9, 13)
"""Rows and columns of positions in the traced image; the graph takes other sizes too, unless the
backbone fixes them."""

_NORMALIZE = """
    normalize (uint8[batch, height, width, 3] seen) => (float[batch, 3, height, width] pixels)
    {
        planes = Transpose <perm = [0, 3, 1, 2]> (seen)
        levels = Cast <to = 1> (planes)
        shares = Div (levels, white)
        centered = Sub (shares, mean)
        pixels = Div (centered, std)
    }"""

_RECTANGLE = """
    grid (float[batch, tokens, dim] tokens) => (float[batch, dim, rows, columns] features)
    {
        channels = Transpose <perm = [0, 2, 1]> (tokens)
        features = Reshape (channels, sides)
    }"""
_SQUARE = """
    grid (float[batch, tokens, dim] tokens) => (float[batch, dim, rows, columns] features)
    {
        channels = Transpose <perm = [0, 2, 1]> (tokens)
        number = Shape <start = 2, end = 3> (channels)
        area = Cast <to = 1> (number)
        root = Sqrt (area)
        whole = Round (root)
        side = Cast <to = 7> (whole)
        sides = Concat <axis = 0> (kept, side, side)
        features = Reshape (channels, sides)
    }"""


def backbone_graph(backbone: Backbone) -> tuple[ModelProto, str, str]:
    """Build the graph of a backbone.

    Args:
        backbone: The backbone, in float32 on the CPU.

    Returns:
        The graph from uint8 images (batch, height, width, 3) to features (batch, dim, h, w), and
        the names of its input and its output.

    Raises:
        ConfigError: If the backbone cannot be expressed in ONNX.
    """
    if backbone.name.startswith(PREFIX):
        return _of_file(Path(backbone.name.removeprefix(PREFIX)), backbone.grid)
    extract = filterbank_function() if backbone.name == "filterbank" else backbone.extract
    return _traced(backbone, extract), "images", "features"


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    return max(
        int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")
    )


class _Wrapped(torch.nn.Module):
    """The function as a module, which the exporter requires."""

    def __init__(self, extract: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.extract = extract

    def forward(self, images: Tensor) -> Tensor:
        return self.extract(images)


def _traced(backbone: Backbone, extract: Callable[[Tensor], Tensor]) -> ModelProto:
    stride = backbone.stride
    height, width = (stride * side for side in TRACED)
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    sides = [stride * torch.export.Dim(name, min=2, max=2**14) for name in ("rows", "columns")]
    shape = {0: torch.export.Dim("batch"), 1: sides[0], 2: sides[1], 3: torch.export.Dim.STATIC}
    try:
        with _quiet():
            program = torch.onnx.export(
                _Wrapped(extract).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=(shape,),
                verbose=False,
                external_data=False,
            )
    except Exception as error:  # the exporter's errors share no base class
        raise ConfigError(
            f"torch {torch.__version__} cannot export backbone {backbone.name!r} to ONNX: "
            f"{first_line(error.__cause__ or error)}"
        ) from error
    assert program is not None
    # Through bytes, because the tensors are torch's until they are written.
    return onnx.load_from_string(program.model_proto.SerializeToString())


def _of_file(path: Path, grid: Grid | None) -> tuple[ModelProto, str, str]:
    try:
        model = onnx.load(path)
        if opset_of(model) < OLDEST_OPSET:
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx's errors share no base class
        raise ConfigError(
            f"ONNX file {str(path)!r} cannot be exported: {first_line(error)}"
        ) from error
    constants = {
        "white": np.float32(255),
        "mean": np.array(IMAGENET_MEAN, np.float32).reshape(1, 3, 1, 1),
        "std": np.array(IMAGENET_STD, np.float32).reshape(1, 3, 1, 1),
    }
    weights = {tensor.name for tensor in model.graph.initializer}
    port = next(port for port in model.graph.input if port.name not in weights)
    if port.type.tensor_type.shape.dim[0].dim_value:
        raise ConfigError(
            f"ONNX file {str(path)!r} has a fixed batch size, but the exported graph must take any "
            "number of images; write the file with a free batch size"
        )
    features = model.graph.output[0].name
    normalize = parse_graph(_NORMALIZE, opset_of(model), constants)
    parts, links = [("normalize", normalize), ("encoder", model)], [{"normalize/pixels": port.name}]
    if grid is None:
        return chain(parts, links), "normalize/seen", f"encoder/{features}"
    parts.append(("grid", _grid_graph(grid, opset_of(model))))
    links.append({f"encoder/{features}": "tokens"})
    return chain(parts, links), "normalize/seen", "grid/features"


def _grid_graph(grid: Grid, opset: int) -> ModelProto:
    """Build the graph that arranges tokens as a map; zeros in a shape keep batch and channels."""
    if grid == "square":
        return parse_graph(_SQUARE, opset, {"kept": np.zeros(2, np.int64)})
    return parse_graph(_RECTANGLE, opset, {"sides": np.array([0, 0, *grid], np.int64)})


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages, and restore the log levels."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
