"""Equations 3 and 4 against loops, and assignment against upsampled codes."""

import math

import pytest
import torch
from torch.nn.functional import interpolate, normalize

from fusseg.segmentation.assignment import (
    _STRIP_BYTES,
    assign,
    build_segmenter,
    cosines,
    encode,
    similarities,
)
from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.objective import Model


@pytest.fixture(scope="module")
def segmenter(seeded):
    model = Model(initial_head(6, 4, seeded(0)), torch.randn(5, 4, generator=seeded(1)))
    return build_segmenter(model, torch.randn(6, generator=seeded(2)) / 10)


def draw_map(seeded, seed, height, width):
    return torch.randn(height, width, 6, generator=seeded(seed))


def slow_assignment(code, centroids):
    """Equations 3 and 4: the index of the centroid of the largest cosine."""
    best, best_cosine = -1, -2.0
    for k, centroid in enumerate(centroids):
        product = sum(a * b for a, b in zip(code, centroid, strict=True))
        cosine = product / math.hypot(*code) / math.hypot(*centroid)
        if cosine > best_cosine:
            best, best_cosine = k, cosine
    return best, best_cosine


def test_every_position_takes_the_centroid_of_the_loop(seeded):
    model = Model(initial_head(6, 4, seeded(0)), 3 * torch.randn(5, 4, generator=seeded(1)))
    mean = torch.full((6,), 0.1)
    segmenter = build_segmenter(model, mean)
    features = draw_map(seeded, 3, 5, 7)
    found = assign(similarities(segmenter, encode(segmenter, features)), (5, 7))
    found_cosines = cosines(segmenter, encode(segmenter, features)).reshape(5, 7, 5)
    codes = build_head(model.head)(features - mean).tolist()
    for row in range(5):
        for column in range(7):
            best, cosine = slow_assignment(codes[row][column], model.centroids.tolist())
            assert int(found[row, column]) == best
            assert float(found_cosines[row, column].max()) == pytest.approx(cosine, abs=1e-6)


def cosines_of_upsampled_codes(segmenter, features, size):
    """The method's order: upsample the codes, then compare; in float64."""
    codes = segmenter.head(features - segmenter.mean_feature).detach().double()
    pixels = interpolate(codes.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)[
        0
    ]
    return torch.einsum("kc,chw->khw", segmenter.centroids.double(), normalize(pixels, dim=0))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (5, 7, (40, 56)),
        (5, 7, (5, 7)),
        (5, 7, (37, 61)),
        (6, 4, (64, 3)),
        (9, 8, (4, 5)),
        (1, 1, (3, 4)),
        (1, 6, (20, 20)),
    ],
)
def test_assignment_equals_that_of_upsampled_codes(height, width, size, segmenter, seeded):
    features = draw_map(seeded, height + width, height, width)
    found = assign(similarities(segmenter, encode(segmenter, features)), size)
    expected = cosines_of_upsampled_codes(segmenter, features, size)
    assert found.shape == size
    best = expected.topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-4
    assert torch.equal(found.long()[clear], expected.argmax(dim=0)[clear])
    assert float(clear.float().mean()) > 0.98


def test_an_image_taller_than_a_strip_is_assigned_alike(segmenter, seeded):
    # This image has many strips, and a part of one.
    size = (1300, 3000)
    rows = _STRIP_BYTES // (4 * 5 * size[1])
    assert 1 < rows < size[0]
    assert size[0] % rows
    features = draw_map(seeded, 4, 7, 5)
    scores = similarities(segmenter, encode(segmenter, features))
    found = assign(scores, size)
    whole = interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    best = whole.topk(2, dim=0)
    clear = best.values[0] - best.values[1] > 1e-3
    assert torch.equal(found.long()[clear], best.indices[0][clear])
    assert float(clear.float().mean()) > 0.98
