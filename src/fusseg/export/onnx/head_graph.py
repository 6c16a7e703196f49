"""The last part of the exported graph: head, similarities, upsampling and assignment."""

import math
from itertools import chain, islice

import numpy as np
import torch
from jaxtyping import Float
from onnx import ModelProto
from torch import Tensor

from fusseg.export.onnx.graph_text import parse_graph
from fusseg.segmentation.assignment import Segmenter
from fusseg.segmentation.classifier import Classifier

_CENTERED = """
    segment (float[batch, dim, rows, columns] features, int64[2] size)
        => (uint8[batch, height, width] regions, float[batch, clusters, rows, columns] similarities)
    {
        half = Cast <to = 10> (features)
        rounded = Cast <to = 1> (half)
        positions = Transpose <perm = [0, 2, 3, 1]> (rounded)
        centered = Sub (positions, mean_feature)
"""
_SCORED = """
        linear_a = MatMul (centered, linear_weight)
        linear = Add (linear_a, linear_bias)
        hidden_a = MatMul (centered, hidden_weight)
        hidden_b = Add (hidden_a, hidden_bias)
        hidden = Relu (hidden_b)
        output_a = MatMul (hidden, output_weight)
        output = Add (output_a, output_bias)
        codes = Add (linear, output)
        scores = MatMul (codes, centroids)
"""
_TEXT = _CENTERED + _SCORED
_EACH_ITS_OWN = """
        similarities = Transpose <perm = [0, 3, 1, 2]> (scores)
        lead = Shape <start = 0, end = 2> (similarities)
        sizes = Concat <axis = 0> (lead, size)
        upsampled = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
            (similarities, , , sizes)
        first = ArgMax <axis = 1, keepdims = 0> (upsampled)
        regions = Cast <to = 2> (first)
    }"""
_MERGED = """
        of_clusters = Transpose <perm = [0, 3, 1, 2]> (scores)
        lead = Shape <start = 0, end = 2> (of_clusters)
        sizes = Concat <axis = 0> (lead, size)
        upsampled = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
            (of_clusters, , , sizes)
        first = ArgMax <axis = 1, keepdims = 0> (upsampled)
        regions = Gather <axis = 0> (region_of, first)
        {parts} = Split <axis = 1> (of_clusters, each_one)
        {largest}
        similarities = Concat <axis = 1> ({merged})
    }}"""


_CLASSES = """
        logits_a = MatMul (centered, class_weight)
        scores = Add (logits_a, class_bias)
"""
_KNOWN_OR_UNKNOWN = """
        logits_a = MatMul (centered, class_weight)
        logits_b = Add (logits_a, class_bias)
        similarities = Transpose <perm = [0, 3, 1, 2]> (logits_b)
        of_clusters = Transpose <perm = [0, 3, 1, 2]> (scores)
        class_lead = Shape <start = 0, end = 2> (similarities)
        class_sizes = Concat <axis = 0> (class_lead, size)
        wide_classes = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
            (similarities, , , class_sizes)
        lead = Shape <start = 0, end = 2> (of_clusters)
        sizes = Concat <axis = 0> (lead, size)
        wide_clusters = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
            (of_clusters, , , sizes)
        own_class = ArgMax <axis = 1, keepdims = 1> (wide_classes)
        posteriors = LogSoftmax <axis = 1> (wide_classes)
        largest = GatherElements <axis = 1> (posteriors, own_class)
        known = GreaterOrEqual (largest, least)
        nearest = ArgMax <axis = 1, keepdims = 1> (wide_clusters)
        unknown = Gather <axis = 0> (label_of, nearest)
        chosen = Where (known, own_class, unknown)
        flat = Squeeze (chosen, second_axis)
        regions = Cast <to = 2> (flat)
    }"""


def head_graph(segmenter: Segmenter, opset: int) -> ModelProto:
    """Build the graph from `features` and the image's `size` to `regions` and `similarities`.

    Features are rounded to float16, as in the cache. Of equal similarities the lowest region wins.
    With a classifier, the similarities are the logarithms of its posteriors, up to a constant of
    the position.
    """
    if segmenter.classifier is not None:
        return _class_graph(segmenter, segmenter.classifier, opset)
    if segmenter.region_of is None:
        return parse_graph(_TEXT + _EACH_ITS_OWN, opset, _constants(segmenter, segmenter.centroids))
    # Sorted by region: the first of equal similarities is then that of the lowest region.
    order = torch.cat(segmenter.clusters_of)
    constants = _constants(segmenter, segmenter.centroids[order]) | {
        "region_of": segmenter.region_of[order].to(torch.uint8).numpy(),
        "each_one": np.ones(segmenter.num_clusters, np.int64),
    }
    return parse_graph(_TEXT + _merging(segmenter), opset, constants)


def _class_graph(segmenter: Segmenter, classifier: Classifier, opset: int) -> ModelProto:
    constants = {
        "class_weight": classifier.weight.T.contiguous().numpy(),
        "class_bias": classifier.bias.numpy(),
        "mean_feature": segmenter.mean_feature.numpy(),
    }
    if not segmenter.uses_clusters:
        return parse_graph(_CENTERED + _CLASSES + _EACH_ITS_OWN, opset, constants)
    order = torch.cat(segmenter.clusters_of)
    regions = order if segmenter.region_of is None else segmenter.region_of[order]
    constants |= _constants(segmenter, segmenter.centroids[order]) | {
        "least": np.array(math.log(classifier.unknown_below), np.float32),
        "label_of": (classifier.num_classes + regions).numpy(),
        "second_axis": np.array([1], np.int64),
    }
    return parse_graph(_TEXT + _KNOWN_OR_UNKNOWN, opset, constants)


def _merging(segmenter: Segmenter) -> str:
    """Write the end of the graph, with one node per region for its largest similarity."""
    names = iter(f"cluster_{place}" for place in range(segmenter.num_clusters))
    members = [list(islice(names, len(clusters))) for clusters in segmenter.clusters_of]
    merged = [f"region_{region}" for region in range(len(members))]
    return _MERGED.format(
        parts=", ".join(chain.from_iterable(members)),
        largest="\n        ".join(
            f"{region} = Max ({', '.join(clusters)})"
            for region, clusters in zip(merged, members, strict=True)
        ),
        merged=", ".join(merged),
    )


def _constants(
    segmenter: Segmenter, centroids: Float[Tensor, "clusters code"]
) -> dict[str, np.ndarray]:
    weights = {
        name.replace(".", "_"): tensor.T.contiguous().numpy()
        if tensor.ndim == 2
        else tensor.numpy()
        for name, tensor in segmenter.head.state_dict().items()
    }
    return weights | {
        "centroids": centroids.T.contiguous().numpy(),
        "mean_feature": segmenter.mean_feature.numpy(),
    }
