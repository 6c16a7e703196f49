import re

import pytest

from fusseg.config.schema import BackboneConfig, Config, FederationConfig, ModelConfig
from fusseg.core.errors import ConfigError
from fusseg.federation.strategies import resolve


def settle(**federation):
    return resolve(Config(federation=FederationConfig(**federation)))


@pytest.mark.parametrize(
    ("strategy", "lloyd_rounds", "expected"),
    [
        ("fedavg", 0, [("train",), ("train",)]),
        ("consensus", 1, [("train",), ("train",), ("lloyd",)]),
        ("lloyd", 1, [("train", "lloyd", "lloyd", "lloyd")] * 2 + [("lloyd",)]),
        ("pca", 2, [("moments", "lloyd"), ("lloyd",)]),
    ],
)
def test_what_is_asked_for_in_each_round(strategy, lloyd_rounds, expected):
    protocol = settle(strategy=strategy, rounds=2, lloyd_rounds=lloyd_rounds)
    total = protocol.num_rounds
    asked = [protocol.tasks(number) for number in range(1, total + 1)]
    assert [tuple(task.name for task in tasks) for tasks in asked] == expected
    assert all(task.trains == (task.name == "train") for tasks in asked for task in tasks)
    assert protocol.num_exchanges(1, total) == sum(len(round_) for round_ in expected)
    assert protocol.num_exchanges(2, total) == sum(len(round_) for round_ in expected[1:])
    assert protocol.num_exchanges(1, 0) == 0


def test_pca_does_not_train():
    protocol = settle(strategy="pca", rounds=9, lloyd_rounds=3)
    assert (protocol.rounds, protocol.num_rounds) == (0, 3)


def test_pca_without_lloyd_steps_is_refused():
    message = "gets its centroids only from Lloyd steps, but federation.lloyd_rounds is 0"
    with pytest.raises(ConfigError, match=re.escape(message)):
        settle(strategy="pca")


@pytest.mark.parametrize("strategy", ["lloyd", "pca"])
@pytest.mark.parametrize("switch", ["aggregate_heads", "aggregate_centroids"])
def test_sums_need_one_model_for_all(strategy, switch):
    with pytest.raises(ConfigError, match="needs one head and one set of centroids"):
        settle(strategy=strategy, lloyd_rounds=2, **{switch: False})


def test_more_components_than_channels_are_refused_where_these_are_known():
    config = Config(
        backbone=BackboneConfig(name="filterbank"),
        model=ModelConfig(code_dim=70),
        federation=FederationConfig(strategy="pca", lloyd_rounds=2),
    )
    assert resolve(config).code_dim == 70
    assert resolve(config, feature_dim=70).code_dim == 70
    message = "model.code_dim = 70 principal components, but backbone 'filterbank' has 69 channels"
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(config, feature_dim=69)
