"""The judge's agreement against scikit-learn, and its counts against a loop."""

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch.nn.functional import normalize

from fusseg.evaluation.agreement import count_pairs as count_all
from fusseg.features.zoom import central_window
from fusseg.federation.judge import count_pairs, figures_of, sum_margins
from fusseg.segmentation.assignment import build_segmenter
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model


def agreement(pairs):
    return figures_of(pairs, torch.tensor(0.0).double(), torch.tensor(1)).agreement


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("regions", [2, 5, 27])
def test_the_agreement_is_the_normalized_mutual_information_of_scikit_learn(noise, regions, seeded):
    generator = seeded(regions)
    left = torch.randint(regions, (2000,), generator=generator)
    other = torch.randint(regions, (2000,), generator=generator)
    right = torch.where(torch.rand(2000, generator=generator) < noise, other, left)
    expected = normalized_mutual_info_score(left, right, average_method="geometric")
    found = agreement(count_all(left, right, regions, regions))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def segmenter(seeded):
    generator = seeded(4)
    model = Model(
        initial_head(6, 3, generator),
        torch.randn(7, 3, generator=generator),
        torch.tensor([0, 1, 2, 3, 0, 1, 3]),
    )
    return build_segmenter(model, torch.randn(6, generator=generator))


def nearest_region(segmenter, feature):
    code = segmenter.head((feature - segmenter.mean_feature)[None])[0]
    return int(segmenter.region_of[int((segmenter.centroids @ code).argmax())])


@torch.no_grad()
@pytest.mark.parametrize("shape", [(6, 9), (12, 6)])
def test_pairs_are_those_of_a_loop_over_the_window(shape, segmenter, seeded):
    """Views that are even within 3 x 3 positions shrink to the values of each 2 x 2."""
    coarse = torch.randn(shape[0] // 3, shape[1] // 3, 6, generator=seeded(1))
    zoomed = coarse.repeat_interleave(3, 0).repeat_interleave(3, 1)
    shrunk = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)
    whole = torch.randn(*shape, 6, generator=seeded(2))
    window = central_window(*shape)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for row in range(window.shape[0]):
        for column in range(window.shape[1]):
            inside = whole[window.rows.start + row, window.columns.start + column]
            first = nearest_region(segmenter, inside)
            # In a block of 2 x 2, both neighbors of the 3 x 3 are of the same feature.
            expected[first, nearest_region(segmenter, shrunk[row, column])] += 1
    assert torch.equal(count_pairs(segmenter, whole, zoomed), expected)


def test_margins_are_those_of_a_loop(segmenter, seeded):
    codes = normalize(torch.randn(50, 3, generator=seeded(3)), dim=1)
    expected = 0.0
    for code in codes:
        best = {}
        for cluster, region in enumerate(segmenter.region_of.tolist()):
            cosine = float(segmenter.centroids[cluster] @ code)
            best[region] = max(best.get(region, -1.0), cosine)
        first, second = sorted(best.values(), reverse=True)[:2]
        expected += first - second
    assert float(sum_margins(segmenter, codes)) == pytest.approx(expected, abs=1e-5)
