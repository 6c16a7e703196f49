import re

import pytest

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.core.errors import ConfigError
from fusseg.federation.rounds import num_updates
from fusseg.federation.strategies import resolve


def settle(**federation):
    return resolve(Config(federation=FederationConfig(**{"keep": "last", **federation})))


@pytest.mark.parametrize(
    ("strategy", "lloyd_rounds", "expected"),
    [
        ("fedavg", 0, [("train",), ("train",)]),
        ("consensus", 1, [("train",), ("train",), ("lloyd",)]),
        ("lloyd", 1, [("train", "lloyd", "lloyd", "lloyd")] * 2 + [("lloyd",)]),
        ("pca", 2, [("lloyd",), ("lloyd",)]),
    ],
)
def test_what_is_asked_for_in_each_round(strategy, lloyd_rounds, expected):
    protocol = settle(strategy=strategy, rounds=2, lloyd_rounds=lloyd_rounds)
    total = protocol.num_rounds
    asked = [protocol.tasks(number) for number in range(1, total + 1)]
    assert [tuple(task.name for task in tasks) for tasks in asked] == expected
    assert all(task.trains == (task.name == "train") for tasks in asked for task in tasks)
    assert num_updates(1, total, 1, protocol) == sum(len(round_) for round_ in expected)
    assert num_updates(2, total, 1, protocol) == sum(len(round_) for round_ in expected[1:])
    assert num_updates(1, 0, 1, protocol) == 0


def test_pca_does_not_train():
    protocol = settle(strategy="pca", rounds=9, lloyd_rounds=3)
    assert (protocol.rounds, protocol.num_rounds) == (0, 3)


def test_pca_from_a_drawn_start_is_refused():
    config = Config(model=ModelConfig(init="random"), federation=FederationConfig(strategy="pca"))
    message = "'pca' does not train its start, but model.init is 'random'; set it to 'pca'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(config)


@pytest.mark.parametrize("strategy", ["lloyd", "pca"])
@pytest.mark.parametrize("switch", ["aggregate_heads", "aggregate_centroids"])
def test_sums_need_one_model_for_all(strategy, switch):
    with pytest.raises(ConfigError, match="needs one head and one set of centroids"):
        settle(strategy=strategy, lloyd_rounds=2, **{switch: False})
