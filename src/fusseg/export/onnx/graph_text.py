"""Writing small ONNX graphs as text, and joining graphs into one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, compose, helper, numpy_helper, parser

IR_VERSION = 10
"""The version that torch writes; onnxruntime reads it since 1.18."""


def parse_graph(text: str, opset: int, constants: Mapping[str, Any]) -> ModelProto:
    """Parse a graph in ONNX's text form.

    Args:
        text: Text for `onnx.parser`.
        opset: Version of ONNX's own operators.
        constants: Arrays that the graph uses, by name; Python numbers become float64 and int64.
    """
    graph = parser.parse_graph(text)
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph.initializer.extend(tensors)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def chain(
    models: Sequence[tuple[str, ModelProto]], links: Sequence[Mapping[str, str]]
) -> ModelProto:
    """Join models one after the other; their names are changed in place.

    Args:
        models: Models, each with a prefix for its names.
        links: For each model after the first: outputs of earlier models, with their prefix, and
            the input that each of them becomes. Outputs that are not linked remain outputs.
    """
    newest = max(model.ir_version for _, model in models)
    for _, model in models:
        model.ir_version = newest
    named = [model for _, model in models]
    for prefix, model in models:
        _rename(model.graph, f"{prefix}/")
    joined = named[0]
    for (prefix, _), model, link in zip(models[1:], named[1:], links, strict=True):
        joined = compose.merge_models(
            joined, model, io_map=[(out, f"{prefix}/{name}") for out, name in link.items()]
        )
    return joined


def strip_notes(model: ModelProto) -> None:
    """Remove notes that tools leave in a graph: texts, stack traces, paths of files."""
    model.ClearField("doc_string")
    del model.metadata_props[:]
    _strip_graph(model.graph)
    for function in model.functions:
        _strip_entries([function, *function.value_info, *function.node])


def _strip_graph(graph: GraphProto) -> None:
    ports = (*graph.input, *graph.output, *graph.value_info)
    _strip_entries([graph, *ports, *graph.initializer, *graph.node])


def _strip_entries(entries: Iterable[Any]) -> None:
    for entry in entries:
        entry.ClearField("doc_string")
        del entry.metadata_props[:]
        for attribute in entry.attribute if isinstance(entry, NodeProto) else ():
            attribute.ClearField("doc_string")
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for inner in attribute.graphs:
                _strip_graph(inner)


def _rename(graph: GraphProto, prefix: str) -> None:
    """Add a prefix to every name; unlike `onnx.compose`, in branches and loops too."""
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        entry.name = prefix + entry.name
    for entry in graph.sparse_initializer:
        entry.values.name = prefix + entry.values.name
    for node in graph.node:
        node.name = node.name and prefix + node.name
        for names in (node.input, node.output):
            names[:] = [name and prefix + name for name in names]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, prefix)
