import pytest
import torch
from torch.nn.functional import normalize

from fusseg.config.schema import Config, ModelConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.federation.lloyd_steps import (
    MIN_POSITIONS,
    Adaptation,
    limit_turn,
    move_centroids,
    move_to_codes,
    sum_codes,
)
from fusseg.runs.adapt import adapted_config

AXES = torch.eye(3)


def scatter(direction, number, seed):
    generator = torch.Generator().manual_seed(seed)
    return normalize(direction + 0.05 * torch.randn(number, 3, generator=generator), dim=1)


def test_a_centroid_that_turned_too_far_is_held_at_the_bound():
    old = AXES[:2]
    new = torch.tensor([[0.6, 0.0, 0.8], [0.0, 0.96, 0.28]])
    moved, far = limit_turn(old, new, 0.8)
    assert far.tolist() == [1, 0]
    # In the plane of old and new: cosine 0.8 to the old, 0.6 across.
    torch.testing.assert_close(moved, torch.tensor([[0.8, 0.0, 0.6], [0.0, 0.96, 0.28]]))


def test_without_a_bound_steps_are_those_of_federated_lloyd():
    codes = [[scatter(torch.tensor([1.0, 0.5, 0.0]), 300, 0)], [scatter(AXES[1], 300, 1)]]
    found, moves = move_to_codes(AXES[:2], codes, Adaptation(steps=1, min_cosine=0.0))
    expected = move_centroids(AXES[:2], sum_codes([codes[0][0], codes[1][0]], AXES[:2]))
    torch.testing.assert_close(found, expected)
    assert moves.states == ("moved", "moved")


def test_without_a_step_centroids_stay():
    found, moves = move_to_codes(2 * AXES[:2], [[scatter(AXES[2], 200, 0)]], Adaptation(steps=0))
    assert torch.equal(found, AXES[:2])
    assert (moves.steps, moves.states) == (0, ("unmoved", "unmoved"))


def test_it_ends_where_nothing_moves_any_more():
    codes = [[scatter(AXES[0], 200, 0), scatter(AXES[1], 200, 1)]]
    found, moves = move_to_codes(3 * AXES[:2], codes, Adaptation(steps=50))
    again, more = move_to_codes(found, codes, Adaptation(steps=50))
    assert moves.steps < 50
    assert more.steps == 1
    torch.testing.assert_close(again, found)


def test_a_region_of_few_positions_keeps_its_centroid():
    codes = [[scatter(AXES[0], 200, 0), scatter(AXES[1], MIN_POSITIONS - 1, 1)]]
    found, moves = move_to_codes(AXES[:2], codes, Adaptation())
    assert moves.states == ("moved", "kept")
    assert torch.equal(found[1], AXES[1])
    assert not torch.equal(found[0], AXES[0])


def test_all_centroids_stay_within_the_bound():
    codes = [[scatter(torch.tensor([0.3, 0.0, 1.0]), 300, 0)]]
    found, moves = move_to_codes(AXES[:2], codes, Adaptation(min_cosine=0.9))
    assert float((found * AXES[:2]).sum(dim=1).min()) == pytest.approx(0.9)
    assert moves.states == ("held", "kept")


@pytest.mark.parametrize(
    ("values", "name"), [({"steps": -1}, "--steps"), ({"min_cosine": 1.5}, "--min-cosine")]
)
def test_settings_out_of_range_are_refused(values, name):
    with pytest.raises(ConfigError, match=f"{name} must lie in"):
        Adaptation(**values)


def test_an_adapted_run_starts_from_its_model_and_whitens_nothing(tmp_path):
    parent = Config(model=ModelConfig(whitening=0.5))
    adapted = adapted_config(parent, tmp_path / "run", tmp_path).model
    assert (adapted.start, adapted.whitening) == (str(tmp_path / "run"), 0.0)


def test_the_layout_follows_from_the_folder(tmp_path):
    plain, sites = tmp_path / "plain", tmp_path / "sites"
    plain.mkdir()
    (plain / "a.jpg").touch()
    (sites / "north" / "images").mkdir(parents=True)
    assert adapted_config(Config(), tmp_path, plain).data.layout == "images"
    found = adapted_config(Config(), tmp_path, sites)
    assert (found.data.layout, found.data.root, found.model.start) == (
        "sites",
        str(sites),
        str(tmp_path),
    )
    with pytest.raises(DataError, match="no such folder of images"):
        adapted_config(Config(), tmp_path, tmp_path / "absent")
