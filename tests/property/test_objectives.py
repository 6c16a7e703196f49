"""What every objective promises: the order of positions does not matter, nor the lengths."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from fusseg.segmentation.losses import contrastive_loss

SEEDS = st.integers(0, 2**31)


def source(seed):
    return Generator().manual_seed(seed)


@given(SEEDS, st.integers(2, 12), st.floats(0.1, 0.9))
def test_the_order_of_positions_does_not_change_the_contrast(seed, count, share):
    rng = source(seed)
    similarities = 4 * torch.randn(count, count, generator=rng, dtype=torch.float64)
    draws = torch.rand(count, count, generator=rng)
    positive, negative = draws < share / 2, draws > 1 - share / 2
    order = torch.randperm(count, generator=rng)
    moved = [one[order][:, order] for one in (similarities, positive, negative)]
    found = contrastive_loss(similarities, positive, negative)
    torch.testing.assert_close(contrastive_loss(*moved), found, rtol=0, atol=1e-10)
    # The positives' share is at most all, and the same number added to all changes nothing.
    assert found >= 0
    torch.testing.assert_close(contrastive_loss(similarities + 3, positive, negative), found)
