import re

import pytest

from fusseg.config import FederationConfig
from fusseg.errors import ConfigError
from fusseg.federation.schedule import num_exchanges, num_rounds, num_training_rounds, tasks
from fusseg.federation.strategies import resolve_federation


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
    federation = FederationConfig(strategy=strategy, rounds=2, lloyd_rounds=lloyd_rounds)
    total = num_rounds(federation)
    assert [tasks(number, federation) for number in range(1, total + 1)] == expected
    assert num_exchanges(1, total, federation) == sum(len(round_) for round_ in expected)
    assert num_exchanges(1, 0, federation) == 0


def test_pca_does_not_train():
    assert num_training_rounds(FederationConfig(strategy="pca", rounds=9)) == 0


def test_pca_without_lloyd_steps_is_refused():
    message = "gets its centroids from Lloyd steps alone, but federation.lloyd_rounds is 0"
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve_federation(FederationConfig(strategy="pca"))


@pytest.mark.parametrize("strategy", ["lloyd", "pca"])
@pytest.mark.parametrize("switch", ["aggregate_heads", "aggregate_centroids"])
def test_sums_need_one_model_for_all(strategy, switch):
    federation = FederationConfig(strategy=strategy, lloyd_rounds=2, **{switch: False})
    with pytest.raises(ConfigError, match="needs one head and one set of centroids"):
        resolve_federation(federation)
