import math

import pytest
import torch

from fusseg.config.schema import LocalConfig
from fusseg.core.errors import ConfigError
from fusseg.segmentation.losses import contrastive_loss
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.objectives.contrastive import (
    NEGATIVE,
    OBJECTIVE,
    POSITIVE,
    ContrastiveSettings,
    choose_pairs,
    draw_steps,
)

# Angles of 0, 10, 90 and 180 degrees; the last is drawn in the place of the first.
ANGLES = torch.tensor([0.0, 10.0, 90.0, 180.0, 0.0]) * math.pi / 180
FEATURES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
PLACES = torch.tensor([0, 1, 2, 3, 0])


def pairs(random=None, **settings):
    drawn = {"places": PLACES} if random is None else {"places": PLACES, "random": random}
    chosen = ContrastiveSettings(**settings)
    agreed = {POSITIVE: 0.9, NEGATIVE: -0.5}
    positive, negative = choose_pairs(FEATURES, drawn, agreed, chosen, torch.float32)
    return [[torch.nonzero(row).flatten().tolist() for row in one] for one in (positive, negative)]


def refused(fragment, **settings):
    with pytest.raises(ConfigError) as caught:
        ContrastiveSettings(**settings)
    assert fragment in str(caught.value)


def test_the_loss_of_two_anchors_by_hand():
    # Anchor 0: e^1 / (e^1 + e^0); anchor 1: its two positives against one negative, all equal.
    similarities = torch.tensor([[9.0, 1.0, 0.0, 9.0], [2.0, 9.0, 2.0, 2.0]])
    positive = torch.tensor([[False, True, False, False], [True, False, True, False]])
    negative = torch.tensor([[False, False, True, False], [False, False, False, True]])
    found = contrastive_loss(similarities, positive, negative)
    assert found.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1.5)) / 2, abs=1e-6)


def test_an_anchor_without_positives_is_left_out_and_has_no_gradient():
    similarities = torch.tensor([[0.0, 1.0], [3.0, 0.0]], requires_grad=True)
    positive = torch.tensor([[True, False], [False, False]])
    negative = torch.tensor([[False, True], [True, True]])
    loss = contrastive_loss(similarities, positive, negative)
    assert loss.item() == pytest.approx(math.log(1 + math.e), abs=1e-6)
    loss.backward()
    assert similarities.grad[1].tolist() == [0.0, 0.0]
    # The derivative of -log of the share of the positive: its share minus 1.
    share = 1 / (1 + math.e)
    assert similarities.grad[0].tolist() == pytest.approx([share - 1, 1 - share], abs=1e-6)


def test_without_any_positive_the_loss_is_zero():
    similarities = torch.ones(2, 2, requires_grad=True)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    loss = contrastive_loss(similarities, nothing, ~nothing)
    loss.backward()
    assert loss.item() == 0
    assert not similarities.grad.any()


def test_large_similarities_neither_overflow_nor_vanish():
    similarities = torch.tensor([[2000.0, 0.0, 1000.0]], requires_grad=True)
    positive, negative = torch.tensor([[False, True, False]]), torch.tensor([[True, False, False]])
    loss = contrastive_loss(similarities, positive, negative)
    loss.backward()
    assert loss.item() == 2000
    assert similarities.grad.tolist() == [pytest.approx([1.0, -1.0, 0.0], abs=1e-20)]


def test_the_band_between_the_cosines_is_left_out():
    positive, negative = pairs()
    # 90 degrees from 0 and 80 from 10: neither near nor far; a place is no pair of itself.
    assert positive == [[1], [0, 4], [], [], [1]]
    assert negative == [[3], [3], [], [0, 1, 4], [3]]


def test_nearest_positions_are_positives_and_never_the_same_place():
    positive, negative = pairs(positives="nearest")
    assert positive[1] in ([0], [4])  # both are of one place
    assert [positive[place] for place in (0, 2, 3, 4)] == [[1], [1], [2], [1]]
    assert negative == [[3], [3], [], [0, 1, 4], [3]]


def test_more_nearest_positions_than_there_are_others_are_all_of_them():
    positive, negative = pairs(positives="nearest", nearest=50)
    assert positive == [[1, 2, 3], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [1, 2, 3]]
    assert negative == [[], [], [], [], []]


def test_random_negatives_are_neither_positives_nor_the_same_place():
    random = torch.tensor([[4, 1], [2, 2], [0, 2], [3, 0], [0, 3]])
    _, negative = pairs(random, negatives="random")
    assert negative == [[], [2], [0], [0], [3]]


def test_a_step_names_each_position_of_each_image(seeded):
    table = {"positions": 6, "negatives": "random", "random_negatives": 5}
    config = LocalConfig(objective="contrastive", batch_size=3, tables={"contrastive": table})
    step = next(draw_steps(4, (3, 4, 5), None, settle_local(config, 2), seeded(0)))
    expected = step.images[:, None] * 12 + step.positions
    assert step.tensors["places"].tolist() == expected.flatten().tolist()
    assert step.tensors["kept"].shape == (3, 1, 5)
    assert step.tensors["random"].shape == (18, 5)
    assert int(step.tensors["random"].max()) < 18


def test_only_quantiles_are_estimated():
    assert OBJECTIVE.estimated(ContrastiveSettings()) == dict.fromkeys(
        (POSITIVE, NEGATIVE), (-1.0, 1.0)
    )
    assert list(OBJECTIVE.estimated(ContrastiveSettings(positives="nearest"))) == [NEGATIVE]
    none = ContrastiveSettings(positives="nearest", negatives="random")
    assert OBJECTIVE.estimated(none) == {}


def test_without_quantiles_nothing_is_estimated(random_features, seeded):
    table = {"positives": "nearest", "negatives": "random"}
    config = LocalConfig(objective="contrastive", tables={"contrastive": table})
    local = settle_local(config, 2)
    assert OBJECTIVE.estimate(random_features(0), torch.zeros(5), local, seeded(0)) == {}


def test_settings_out_of_range_are_refused_by_their_keys():
    refused("local.contrastive.positions must be at least 1", positions=0)
    refused("local.contrastive.temperature must be at least 0.001", temperature=0.0)
    refused("local.contrastive.dropout must lie in [0, 1), got 1.0", dropout=1.0)
    refused("local.contrastive.positives must lie in (0, 1), got 1.0", positives=1.0)
    refused("local.contrastive.negatives must lie in (0, 1), got 0.0", negatives=0.0)
    refused("local.contrastive.negatives is 0.9", positives=0.8, negatives=0.9)
    refused("local.contrastive.separation_weight", separation_weight=-1.0)
