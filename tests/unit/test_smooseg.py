import math

import pytest
import torch

from fusseg.config.schema import LocalConfig
from fusseg.core.errors import ConfigError
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.objectives.smooseg import (
    SmoosegSettings,
    closeness,
    draw_steps,
    label_loss,
    smoothness_loss,
)


def test_closeness_is_relative_to_the_other_image():
    # Cosines 1 and 0.6, then 0 and 0.8.
    own, other = torch.eye(2)[None], torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    expected = torch.tensor([[[0.2, -0.2], [-0.4, 0.4]]])
    torch.testing.assert_close(closeness(own, other), expected)


def test_smoothness_by_hand():
    close, agreement = torch.tensor([[[0.5, -0.5]], [[9.0, 9.0]]]), torch.full((2, 1, 2), 0.75)
    agreement[0, 0, 1] = 0.0
    counted = torch.tensor([True, False])
    # (0.5 - 0.1) * 0.25 and (-0.5 - 0.1) * 1 in the mean over the pair that counts.
    found = smoothness_loss(close, 0.1, agreement, counted)
    assert found.item() == pytest.approx((0.4 * 0.25 - 0.6) / 2, abs=1e-6)
    expected = (0.4 * 0.25 - 0.6 + 2 * 8.9 * 0.25) / 4
    assert smoothness_loss(close, 0.1, agreement).item() == pytest.approx(expected, abs=1e-6)
    nothing = torch.tensor([False, False])
    assert smoothness_loss(close, 0.1, agreement, nothing).item() == 0


def test_the_label_loss_by_hand():
    units, centroids = torch.eye(2), torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    found = label_loss(units, centroids, torch.tensor([0, 0]))
    # Cosines (1, 0) for the label 0, and (0, 1) for it.
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_each_image_is_compared_with_another_of_the_batch(seeded):
    config = LocalConfig(objective="smooseg", batch_size=4, tables={"smooseg": {"positions": 6}})
    local = settle_local(config, 2)
    steps = draw_steps(5, (3, 4, 7), None, local, seeded(0))
    for _ in range(20):
        step = next(steps)
        partners = step.tensors["partners"]
        assert sorted(partners.tolist()) == [0, 1, 2, 3]
        assert not bool((partners == torch.arange(4)).any())
        assert step.tensors["counted"].all()
        assert step.positions.shape == (4, 6)
        assert step.tensors["kept"].shape == (4, 1, 7)
    few = next(draw_steps(1, (3, 4, 7), None, local, seeded(0)))
    assert not few.tensors["counted"].any()


def test_settings_out_of_range_are_refused_by_their_keys():
    for settings, fragment in (
        ({"positions": 0}, "local.smooseg.positions must be at least 1"),
        ({"temperature": 0.0}, "local.smooseg.temperature must be at least 0.001"),
        ({"within_shift": -3.0}, "local.smooseg.within_shift must be at least -2"),
        ({"across_shift": 3.0}, "local.smooseg.across_shift must be at most 2"),
        ({"dropout": 1.0}, "local.smooseg.dropout must lie in [0, 1), got 1.0"),
        ({"momentum": -0.1}, "local.smooseg.momentum must lie in [0, 1), got -0.1"),
    ):
        with pytest.raises(ConfigError) as caught:
            SmoosegSettings(**settings)
        assert fragment in str(caught.value)
