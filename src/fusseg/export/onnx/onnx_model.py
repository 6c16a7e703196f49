"""A trained model as one ONNX graph, from decoded pixels to regions of the same size."""

import json
from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto, checker, helper

from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import write_atomically
from fusseg.export.onnx.backbone_graph import backbone_graph, opset_of
from fusseg.export.onnx.graph_text import chain, strip_notes
from fusseg.export.onnx.head_graph import head_graph
from fusseg.export.onnx.view_graph import view_graph
from fusseg.runs.load import TrainedRun
from fusseg.segmentation.assignment import Segmenter

INPUT, OUTPUTS = "image", ("regions", "similarities")
_MOST_BYTES = 2**31 - 1
"""Largest size of a protobuf file."""


def build_onnx(
    run: TrainedRun, segmenter: Segmenter, max_area: int, metadata: Mapping[str, object]
) -> ModelProto:
    """Build the graph of a model.

    Args:
        run: The run, with its backbone in float32 on the CPU.
        segmenter: One of the run's models.
        max_area: Area up to which a small image is enlarged, as a multiple of the training size.
        metadata: Metadata for the file, written as JSON under `fusseg`.

    Raises:
        ConfigError: If the backbone cannot be expressed in ONNX, or the graph is too large.
    """
    data, backbone = run.config.data, run.backbone
    encoder, images, features = backbone_graph(backbone)
    opset = opset_of(encoder)
    free = data.fit == "crop" and backbone.only_size(data.image_size) is None
    largest = max_area * data.image_size[0] * data.image_size[1] if free else None
    view = view_graph(data.image_size, data.interpolation, backbone.stride, largest, opset)
    model = chain(
        [("view", view), ("backbone", encoder), ("head", head_graph(segmenter, opset))],
        [
            {"view/seen": images},
            {f"backbone/{features}": "features", "view/size": "size"},
        ],
    )
    _name_ports(model)
    strip_notes(model)
    if model.ByteSize() > _MOST_BYTES:
        raise ConfigError(
            f"the graph takes {model.ByteSize():,} bytes, but an ONNX file can have at most "
            f"{_MOST_BYTES:,}; train with a smaller backbone"
        )
    helper.set_model_props(model, {"fusseg": json.dumps(metadata, sort_keys=True)})
    checker.check_model(model)
    return model


def save_onnx(path: Path, model: ModelProto) -> None:
    """Write a graph atomically.

    Raises:
        DataError: If the file cannot be written.
    """
    try:
        write_atomically(path, model.SerializeToString())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _name_ports(model: ModelProto) -> None:
    """Give input and outputs plain names; names inside keep the prefix of their part."""
    plain = {f"view/{INPUT}": INPUT} | {f"head/{name}": name for name in OUTPUTS}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [plain.get(name, name) for name in names]
    for port in (*model.graph.input, *model.graph.output):
        port.name = plain[port.name]
    # The parts name the same dimensions differently.
    del model.graph.value_info[:]
