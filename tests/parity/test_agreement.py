"""The adjusted Rand index against scikit-learn's."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from fusseg.evaluation.agreement import adjusted_rand, count_pairs


@pytest.mark.parametrize("seed", range(5))
def test_the_adjusted_rand_index_is_that_of_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(4, (500,), generator=generator)
    noise = torch.randint(6, (500,), generator=generator)
    right = torch.where(torch.rand(500, generator=generator) < 0.2 * seed, left, noise)
    found = adjusted_rand(count_pairs(left, right, 4, 6))
    assert found == pytest.approx(adjusted_rand_score(left.numpy(), right.numpy()), abs=1e-12)
