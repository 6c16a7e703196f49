import pytest
import torch
from torch.nn.functional import normalize

from fusseg.core.errors import ConfigError
from fusseg.runs.suggest_k import Sampled, judge_candidates


def draw_sample(num_directions=4, images=20, positions=12):
    """Codes close to a few directions at right angles, the same ones in every image."""
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(images * positions) % num_directions
    codes = torch.eye(8)[which] + 0.02 * torch.randn(len(which), 8, generator=generator)
    return Sampled(normalize(codes, dim=1).reshape(images, positions, 8), 2, 1.0)


def test_the_true_number_is_stable_and_most_distinct():
    judged = {one.num_clusters: one for one in judge_candidates(draw_sample(), [2, 4, 12], 0)}
    assert judged[4].stability == pytest.approx(1.0)
    assert judged[4].silhouette > 0.9
    assert judged[4].silhouette > judged[2].silhouette
    assert judged[12].stability < 0.8
    assert judged[2].mean_cosine < judged[4].mean_cosine < 1


def test_the_same_seed_judges_the_same_and_the_order_of_numbers_does_not_matter():
    assert list(judge_candidates(draw_sample(), [6, 3, 3], 1)) == list(
        judge_candidates(draw_sample(), [3, 6], 1)
    )


@pytest.mark.parametrize("number", [1, 97, 300])
def test_numbers_that_cannot_be_tried_are_refused(number):
    with pytest.raises(ConfigError, match=f"must be from 2 to 96 here, got {number}"):
        next(judge_candidates(draw_sample(), [2, number], 0))
