"""The resizing inside exported graphs, against Pillow's."""

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnxruntime

from fusseg.config.schema import DataConfig
from fusseg.data.images import fit_image
from fusseg.export.onnx.view_graph import view_graph
from fusseg.features.backbones import load_backbone
from fusseg.prediction.viewing import MAX_AREA, PredictOptions, view_image


def picture(height, width, seed=0):
    """Noise over a gradient: every level, and edges everywhere."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 180, width)[None, :, None]
    return (ramp + generator.integers(0, 76, (height, width, 3))).astype(np.uint8)


def run(graph, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content, providers = graph.SerializeToString(), ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(content, options, providers).run(None, {"image": images})


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(30, 40), (61, 77), (25, 130), (120, 160), (90, 60), (60, 80)])
def test_every_filter_is_pillows_up_to_ties_of_rounding(interpolation, size):
    image = picture(60, 80)
    graph = view_graph(size, interpolation, 1, None, 18)
    seen, shape = run(graph, np.stack([image, image[::-1]]))
    expected = fit_image(image, size, "stretch", interpolation)
    difference = np.abs(seen[0].astype(int) - expected)
    assert shape.tolist() == [60, 80]
    assert seen.shape == (2, *size, 3)
    # A sum that lies halfway between two levels may fall either way, and ringing may carry it on.
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.06
    if interpolation in ("nearest", "box"):
        assert difference.max() == 0


@pytest.mark.parametrize(
    "shape",
    [(64, 96), (128, 96), (32, 96), (640, 960), (100, 30), (8, 400), (60, 2000), (1, 1), (333, 97)],
)
def test_images_are_seen_at_the_scale_of_a_prediction(shape):
    data, backbone = DataConfig(image_size=(64, 96)), load_backbone("filterbank")
    graph = view_graph(data.image_size, "bilinear", 8, MAX_AREA * 64 * 96, 18)
    result, _ = run(graph, picture(*shape)[None])
    assert result.shape[1:3] == view_image(shape, data, backbone, PredictOptions()).size
