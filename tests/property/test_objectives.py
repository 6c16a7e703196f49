"""What every objective promises: the order of the positions of a step does not matter."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from fusseg.segmentation.losses import contrastive_loss
from fusseg.segmentation.objectives.primaps import mask_labels, mask_loss
from fusseg.segmentation.objectives.smooseg import closeness, smoothness_loss

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


@given(SEEDS, st.integers(1, 9), st.floats(-1, 1))
def test_the_order_of_positions_does_not_change_the_smoothness(seed, count, shift):
    rng = source(seed)
    units = torch.randn(2, count, 4, generator=rng, dtype=torch.float64)
    units /= units.norm(dim=2, keepdim=True)
    agreement = torch.rand(2, count, count, generator=rng, dtype=torch.float64)
    order, counted = torch.randperm(count, generator=rng), torch.tensor([True, seed % 2 == 0])
    close, moved = closeness(units, units), closeness(units[:, order], units[:, order])
    found = smoothness_loss(close, shift, agreement, counted)
    again = smoothness_loss(moved, shift, agreement[:, order][:, :, order], counted)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-10)
    # Where all assignments are the same, everything is smooth.
    assert smoothness_loss(close, shift, torch.ones_like(agreement), counted) == 0


@given(SEEDS, st.integers(1, 12), st.integers(2, 5))
def test_the_order_of_positions_and_the_names_of_masks_do_not_change_the_labels(
    seed, count, num_clusters
):
    rng = source(seed)
    clusters = torch.randint(num_clusters, (2, count), generator=rng)
    masks = torch.randint(4, (2, count), generator=rng)
    order, names = torch.randperm(count, generator=rng), torch.randperm(4, generator=rng)
    labels = mask_labels(clusters, masks, num_clusters)
    moved = mask_labels(clusters[:, order], names[masks[:, order]], num_clusters)
    assert torch.equal(moved, labels[:, order])
    cosines = torch.rand(2 * count, num_clusters, generator=rng, dtype=torch.float64)
    counted = torch.rand(2 * count, generator=rng) < 0.7
    both = torch.cat([order, count + order])
    found = mask_loss(cosines, labels.flatten(), counted, 0.1, 2.0)
    again = mask_loss(cosines[both], moved.flatten(), counted[both], 0.1, 2.0)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-10)
