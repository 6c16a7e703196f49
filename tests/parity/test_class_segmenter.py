"""Classes and unknown pixels, as by a slow loop over the pixels."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, normalize

from fusseg.prediction.strips import assign_strips
from fusseg.report.cluster_colors import numbered_regions
from fusseg.runs.taught_classes import regions_of_classes
from fusseg.segmentation.assignment import (
    Segmenter,
    build_segmenter,
    cosines,
    encode,
    largest_of_regions,
    pixel_cosines,
    segment,
    similarities,
    with_classes,
    without_classes,
)
from fusseg.segmentation.classifier import Classifier
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model

CLASSES, CLUSTERS, DIM, CODE = 3, 4, 6, 5
SIZE = (24, 40)


@pytest.fixture
def make(seeded):
    def segmenter(unknown_below, region_of=None) -> Segmenter:
        generator = seeded(0)
        head = initial_head(DIM, CODE, generator)
        centroids = torch.randn(CLUSTERS, CODE, generator=generator)
        mean = torch.randn(DIM, generator=generator)
        weight = torch.randn(CLASSES, DIM, generator=generator)
        classifier = Classifier(weight, torch.randn(CLASSES, generator=generator), unknown_below)
        return with_classes(build_segmenter(Model(head, centroids, region_of), mean), classifier)

    return segmenter


@pytest.fixture
def features(seeded):
    return torch.randn(3, 5, DIM, generator=seeded(1))


def slowly(segmenter, features):
    """Label of every pixel, one by one."""
    classifier = segmenter.classifier
    logits = classifier.logits(features - segmenter.mean_feature)
    codes = encode(without_classes(segmenter), features)
    wide = interpolate(logits.permute(2, 0, 1)[None], SIZE, mode="bilinear")[0]
    wide_codes = interpolate(codes.permute(2, 0, 1)[None], SIZE, mode="bilinear")[0]
    regions = segmenter.region_of
    found = np.zeros(SIZE, np.uint8)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            posterior = wide[:, row, column].softmax(0)
            found[row, column] = int(posterior.argmax())
            if float(posterior.max()) < classifier.unknown_below:
                code = normalize(wide_codes[:, row, column], dim=0)
                cluster = int((segmenter.centroids @ code).argmax())
                region = cluster if regions is None else int(regions[cluster])
                found[row, column] = CLASSES + region
    return found


@pytest.mark.parametrize("region_of", [None, torch.tensor([1, 0, 1, 0])])
@pytest.mark.parametrize("unknown_below", [0.0, 0.7])
def test_labels_are_those_of_a_slow_loop(unknown_below, region_of, make, features):
    segmenter = make(unknown_below, region_of)
    found = segment(segmenter, encode(segmenter, features), SIZE).numpy()
    expected = slowly(segmenter, features)
    # Rounding may tip a pixel on the border of two labels.
    assert (found == expected).mean() > 0.995
    regions = CLUSTERS if region_of is None else 2
    assert segmenter.num_regions == CLASSES + (regions if unknown_below else 0)
    unknown = (expected >= CLASSES).mean()
    assert (0.05 < unknown < 0.95) if unknown_below else unknown == 0


@pytest.mark.parametrize("unknown_below", [0.0, 0.7])
def test_the_largest_value_of_each_position_is_its_label(unknown_below, make, features):
    segmenter = make(unknown_below)
    codes = encode(segmenter, features)
    values = cosines(segmenter, codes)
    assert values.shape == (15, segmenter.num_regions)
    # At the size of the map, nothing is interpolated.
    labels = segment(segmenter, codes, (3, 5)).flatten()
    assert torch.equal(values.argmax(dim=1), labels.long())
    by_pixel = pixel_cosines(segmenter, codes, (3, 5)).argmax(dim=0).flatten()
    assert torch.equal(by_pixel, labels.long())


@pytest.mark.parametrize("unknown_below", [0.0, 0.7])
def test_strips_give_the_labels_of_the_whole_image(unknown_below, make, features):
    segmenter = make(unknown_below)
    codes = encode(segmenter, features)
    own = numbered_regions(CLUSTERS) if unknown_below else None
    names = ["a", "b", "c"]
    regions = regions_of_classes(names, [(0, 0, 0)] * CLASSES, own)
    assert regions.names[:3] == ("a", "b", "c")
    if own is not None:
        assert regions.names[3:] == tuple(f"unknown: cluster {place}" for place in range(4))
    bands = iter([codes[:2], codes[2:]])
    found = assign_strips(bands, (3, 5), SIZE, segmenter, regions)
    assert np.array_equal(found.regions, segment(segmenter, codes, SIZE).numpy())
    assert found.pixels.sum() == SIZE[0] * SIZE[1]


@pytest.mark.parametrize("region_of", [None, torch.tensor([1, 0, 1, 0])])
@pytest.mark.parametrize("unknown_below", [None, 0.0, 0.7])
def test_the_exported_graph_gives_the_same_labels(unknown_below, region_of, make, features):
    """Also of a model without classes, whose clusters may be merged."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from fusseg.export.onnx.head_graph import head_graph

    segmenter = make(unknown_below or 0.0, region_of)
    if unknown_below is None:
        segmenter = without_classes(segmenter)
    session = onnxruntime.InferenceSession(head_graph(segmenter, 17).SerializeToString())
    rounded = features.half().float()
    inputs = {
        "features": rounded.permute(2, 0, 1)[None].contiguous().numpy(),
        "size": np.array(SIZE, np.int64),
    }
    labels, scores = session.run(None, inputs)
    codes = encode(segmenter, rounded)
    assert (labels[0] == segment(segmenter, codes, SIZE).numpy()).mean() > 0.995
    if segmenter.classifier is None:
        expected = largest_of_regions(segmenter, similarities(segmenter, codes), dim=0)
    else:
        logits = segmenter.classifier.logits(rounded - segmenter.mean_feature)
        expected = logits.permute(2, 0, 1)
    np.testing.assert_allclose(scores[0], expected.numpy(), atol=1e-4)
