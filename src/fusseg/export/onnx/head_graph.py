"""The last part of the exported graph: head, similarities, upsampling and assignment."""

from onnx import ModelProto

from fusseg.export.onnx.graph_text import parse_graph
from fusseg.segmentation.assignment import Segmenter

_TEXT = """
    segment (float[batch, dim, rows, columns] features, int64[2] size)
        => (uint8[batch, height, width] regions, float[batch, clusters, rows, columns] similarities)
    {
        half = Cast <to = 10> (features)
        rounded = Cast <to = 1> (half)
        positions = Transpose <perm = [0, 2, 3, 1]> (rounded)
        centered = Sub (positions, mean_feature)
        linear_a = MatMul (centered, linear_weight)
        linear = Add (linear_a, linear_bias)
        hidden_a = MatMul (centered, hidden_weight)
        hidden_b = Add (hidden_a, hidden_bias)
        hidden = Relu (hidden_b)
        output_a = MatMul (hidden, output_weight)
        output = Add (output_a, output_bias)
        codes = Add (linear, output)
        scores = MatMul (codes, centroids)
        similarities = Transpose <perm = [0, 3, 1, 2]> (scores)
        lead = Shape <start = 0, end = 2> (similarities)
        sizes = Concat <axis = 0> (lead, size)
        upsampled = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
            (similarities, , , sizes)
        first = ArgMax <axis = 1, keepdims = 0> (upsampled)
        regions = Cast <to = 2> (first)
    }"""


def head_graph(segmenter: Segmenter, opset: int) -> ModelProto:
    """Build the graph from `features` and the image's `size` to `regions` and `similarities`.

    Features are rounded to float16, as in the cache. Of equal similarities the first one wins.
    """
    weights = {
        name.replace(".", "_"): tensor.T.contiguous().numpy()
        if tensor.ndim == 2
        else tensor.numpy()
        for name, tensor in segmenter.head.state_dict().items()
    }
    constants = weights | {
        "centroids": segmenter.centroids.T.contiguous().numpy(),
        "mean_feature": segmenter.mean_feature.numpy(),
    }
    return parse_graph(_TEXT, opset, constants)
