"""A trained model as one ONNX graph: from pixels as they are decoded to regions at their size."""

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
"""Of a file of protobuf."""


def build_onnx(
    run: TrainedRun, segmenter: Segmenter, max_area: int, metadata: Mapping[str, object]
) -> ModelProto:
    """Make the graph of a model.

    Args:
        run: Backbone, in float32 on the processor, and scale.
        segmenter: One of the run's.
        max_area: Up to how many times the training size a small image is enlarged.
        metadata: Goes into the file as JSON, under `fusseg`.

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
            f"the graph takes {model.ByteSize():,} bytes, and an ONNX file holds {_MOST_BYTES:,}; "
            "train on a smaller backbone"
        )
    helper.set_model_props(model, {"fusseg": json.dumps(metadata, sort_keys=True)})
    checker.check_model(model)
    return model


def save_onnx(path: Path, model: ModelProto) -> None:
    """Write a graph whole or not at all.

    Raises:
        DataError: If the file cannot be written.
    """
    try:
        write_atomically(path, model.SerializeToString())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _name_ports(model: ModelProto) -> None:
    """Call input and outputs by plain names; inside, names keep the prefix of their part."""
    plain = {f"view/{INPUT}": INPUT} | {f"head/{name}": name for name in OUTPUTS}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [plain.get(name, name) for name in names]
    for port in (*model.graph.input, *model.graph.output):
        port.name = plain[port.name]
    # Shapes of the parts, under symbols that no longer agree.
    del model.graph.value_info[:]
