import re

import pytest

from fusseg.config.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    LocalConfig,
    ModelConfig,
)
from fusseg.core.errors import ConfigError, FussegError
from fusseg.segmentation.objectives.stego import StegoSettings


def expect_refusal(message, stage, **settings):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        stage(**settings)


def test_the_defaults_are_those_of_the_method():
    config = Config()
    assert (config.model.num_clusters, config.model.code_dim) == (27, 70)
    local = config.local
    assert (local.objective, local.batch_size, local.tables) == ("stego", 8, {})
    stego = StegoSettings()
    assert (stego.positions, stego.neighbors, stego.random_supports) == (121, 2, 5)
    assert (stego.dropout, stego.separation_weight) == (0.1, 0.0)
    assert (stego.self_weight, stego.neighbor_weight, stego.random_weight) == (0.67, 0.25, 0.63)
    assert (stego.shift, stego.shift_quantiles, stego.shift_batches) == ("auto", "balanced", 8)
    assert (local.head_learning_rate, local.centroid_learning_rate) == (5e-4, 5e-3)
    assert (config.federation.rounds, config.federation.distance) == (10, "cosine")


def test_a_bad_setting_is_a_value_error_of_fusseg():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, FussegError)


@pytest.mark.parametrize(
    ("stage", "key", "bound", "value"),
    [
        (Config, "seed", 0, -1),
        (DataConfig, "data.images_per_site", 2, 1),
        (DataConfig, "data.scene_seed", 0, -1),
        (BackboneConfig, "backbone.batch_size", 1, 0),
        (ModelConfig, "model.num_clusters", 2, 1),
        (ModelConfig, "model.code_dim", 1, 0),
        (LocalConfig, "local.steps", 1, 0),
        (LocalConfig, "local.batch_size", 2, 1),
        (StegoSettings, "local.stego.positions", 1, 0),
        (StegoSettings, "local.stego.neighbors", 1, 0),
        (StegoSettings, "local.stego.random_supports", 1, 0),
        (StegoSettings, "local.stego.shift_batches", 1, 0),
        (StegoSettings, "local.stego.self_weight", 0, -0.5),
        (StegoSettings, "local.stego.neighbor_weight", 0, -0.5),
        (StegoSettings, "local.stego.random_weight", 0, -0.5),
        (StegoSettings, "local.stego.separation_weight", 0, -0.5),
        (FederationConfig, "federation.rounds", 1, 0),
        (EvaluationConfig, "evaluation.every", 0, -1),
    ],
)
def test_a_setting_below_its_bound_is_refused_and_the_bound_is_not(stage, key, bound, value):
    name = key.rpartition(".")[2]
    expect_refusal(f"{key} must be at least {bound}, got {value}", stage, **{name: value})
    kind = type(value)
    assert getattr(stage(**{name: kind(bound)}), name) == bound


@pytest.mark.parametrize("name", ["head_learning_rate", "centroid_learning_rate", "epochs"])
@pytest.mark.parametrize("value", [0.0, -1e-3, float("nan")])
def test_rates_and_epochs_must_be_above_zero(name, value):
    expect_refusal(f"local.{name} must be above 0, got {value}", LocalConfig, **{name: value})


@pytest.mark.parametrize("size", [(15, 16), (320, 0), (-16, 16), (16, 16385)])
def test_images_of_absurd_sizes_are_refused(size):
    message = f"data.image_size must be 16 to 16384 pixels a side, got {list(size)}"
    expect_refusal(message, DataConfig, image_size=size)
    assert DataConfig(image_size=(16, 16)).image_size == (16, 16)


@pytest.mark.parametrize("level", [0, -1, 65536])
def test_a_white_level_beyond_16_bits_is_refused(level):
    bound = "most 65535" if level > 0 else "least 1"
    message = f"must be at {bound}, got {level}"
    expect_refusal(f"data.white_level {message}", DataConfig, white_level=level)
    expect_refusal(f"data.white_level.3 {message}", DataConfig, white_level={"1": 9, "3": level})


def test_white_levels_are_named_by_a_number_of_bands():
    message = (
        "data.white_level has the key 'rgb'; the keys are numbers of bands: 1 for gray, 3 for RGB, "
        "2 and 4 for the same with transparency"
    )
    expect_refusal(message, DataConfig, white_level={"rgb": 4095})


def test_an_empty_backbone_is_refused():
    expect_refusal("backbone.name must not be empty", BackboneConfig, name="")


def test_more_clusters_than_an_8_bit_image_has_indices_are_refused():
    message = "model.num_clusters must be at most 255, got 256"
    expect_refusal(message, ModelConfig, num_clusters=256)
    assert ModelConfig(num_clusters=255).num_clusters == 255


@pytest.mark.parametrize(
    ("value", "bound"), [(-0.1, "at least 0"), (1.5, "at most 1"), (float("nan"), "at least 0")]
)
def test_whitening_is_a_power_from_0_to_1(value, bound):
    message = f"model.whitening must be {bound}, got {value}"
    expect_refusal(message, ModelConfig, whitening=value)
    assert ModelConfig(whitening=1.0).whitening == 1


@pytest.mark.parametrize("settings", [{"init": "random"}, {"start": "runs/a"}])
def test_components_that_are_not_computed_cannot_be_whitened(settings):
    ((key, value),) = settings.items()
    message = (
        "model.whitening is 0.5, but no principal components are computed, because "
        f"model.{key} is {value!r}; set model.whitening to 0"
    )
    expect_refusal(message, ModelConfig, whitening=0.5, **settings)
    assert ModelConfig(whitening=0.0, **settings).whitening == 0


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan")])
def test_dropout_of_all_channels_is_refused(dropout):
    message = f"local.stego.dropout must lie in [0, 1), got {dropout}"
    expect_refusal(message, StegoSettings, dropout=dropout)


@pytest.mark.parametrize("quantiles", [(0.0, 0.5, 0.5), (0.5, 0.5, 1.0), (0.5, float("nan"), 0.5)])
def test_quantiles_outside_zero_and_one_are_refused(quantiles):
    message = f"local.stego.shift_quantiles must lie in (0, 1), got {quantiles}"
    expect_refusal(message, StegoSettings, shift_quantiles=quantiles)


def test_steps_and_epochs_exclude_each_other():
    message = "local.steps and local.epochs cannot both be set, got 5 and 2.0; remove one"
    expect_refusal(message, LocalConfig, steps=5, epochs=2.0)


@pytest.mark.parametrize(
    ("stage", "name", "most"),
    [
        (LocalConfig, "local.steps", 10**9),
        (StegoSettings, "local.stego.positions", 10_000),
        (LocalConfig, "local.batch_size", 10_000),
        (ModelConfig, "model.code_dim", 4096),
        (ModelConfig, "model.num_clusters", 255),
    ],
)
def test_counts_have_a_largest_value(stage, name, most):
    key = name.rpartition(".")[2]
    assert getattr(stage(**{key: most}), key) == most
    expect_refusal(f"{name} must be at most {most}, got {most + 1}", stage, **{key: most + 1})


def test_a_table_that_is_called_like_a_setting_is_refused():
    with pytest.raises(ConfigError, match=r"^local\.steps is a setting"):
        LocalConfig(tables={"steps": {}})


def test_equal_settings_hash_alike_whatever_their_tables_hold():
    left, right = (LocalConfig(tables={"stego": {"shift": (0.1, 0.2, 0.3)}}) for _ in range(2))
    assert left == right
    assert hash(left) == hash(right)
    assert left != LocalConfig()
