import math

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, LocalConfig
from fusseg.core.errors import ConfigError
from fusseg.federation.strategies import resolve
from fusseg.segmentation.head import HeadWeights, SegmentationHead, initial_head, project
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.regularizers import (
    References,
    contrastive_term,
    proximal_term,
    regularization,
)


def head_of(value: float) -> HeadWeights:
    head = SegmentationHead(2, 1)
    return {name: torch.full_like(weight, value) for name, weight in head.state_dict().items()}


def settle(**local):
    return settle_local(LocalConfig(**local), num_clusters=2)


def test_the_proximal_term_is_the_squared_distance_over_the_whole_head():
    # linear 2 + 1, hidden 4 + 2, output 2 + 1: twelve weights, each 3 away
    assert proximal_term(head_of(5.0), head_of(2.0)).item() == 12 * 9


def test_the_proximal_gradient_reaches_every_weight():
    head = {name: weight.requires_grad_(True) for name, weight in head_of(5.0).items()}
    proximal_term(head, head_of(2.0)).backward()
    assert all((weight.grad == 6).all() for weight in head.values())


def test_the_contrast_by_hand():
    codes = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    received = torch.tensor([[3.0, 0.0], [1.0, 0.0]])  # cosines 1 and 0
    previous = torch.tensor([[0.0, 1.0], [0.0, -1.0]])  # cosines 0 and -1
    each = [
        -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0 / 0.5))),
        -math.log(math.exp(0 / 0.5) / (math.exp(0 / 0.5) + math.exp(-1 / 0.5))),
    ]
    found = contrastive_term(codes, received, previous, 0.5)
    assert float(found) == pytest.approx(sum(each) / 2)


def test_two_equal_references_give_ln_2_and_no_gradient():
    codes = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    same = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    found = contrastive_term(codes, same, same, 0.5)
    found.backward()
    assert found.item() == pytest.approx(math.log(2))
    assert codes.grad.abs().max() < 1e-7


def test_two_different_references_give_a_gradient():
    codes = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    received = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    contrastive_term(codes, received, -received, 0.5).backward()
    assert codes.grad.abs().max() > 1e-3


def test_a_tiny_temperature_does_not_overflow():
    codes = torch.tensor([[1.0, 0.0]])
    assert float(contrastive_term(codes, -codes, codes, 1e-6)) == pytest.approx(2e6)


def test_either_weight_turns_a_regularizer_on():
    assert not settle().regularizes
    assert settle(fedprox_weight=0.1).regularizes
    assert settle(fedmoon_weight=0.1).regularizes


def test_the_weights_scale_the_terms(seeded):
    head = initial_head(3, 2, seeded(0))
    received = initial_head(3, 2, seeded(1))
    previous = initial_head(3, 2, seeded(2))
    inputs = torch.randn(4, 3, generator=seeded(3))
    codes = project(head, inputs)
    references = References(received, previous)
    near = proximal_term(head, received)
    contrast = contrastive_term(codes, project(received, inputs), project(previous, inputs), 0.7)
    local = settle(fedprox_weight=0.2, fedmoon_weight=3.0, fedmoon_temperature=0.7)
    found = regularization(head, inputs, codes, references, local)
    assert torch.allclose(found, 0.1 * near + 3 * contrast)
    first = regularization(head, inputs, codes, References(received, None), local)
    assert torch.allclose(first, 0.1 * near)


@pytest.mark.parametrize("strategy", ["local", "centralized", "pca"])
@pytest.mark.parametrize("key", ["fedprox_weight", "fedmoon_weight"])
def test_regularizers_are_refused_where_no_global_head_is_sent(strategy, key):
    federation = FederationConfig(strategy=strategy, lloyd_rounds=3)
    with pytest.raises(ConfigError, match=f"^local.{key} is 0.5, but federation.strategy"):
        resolve(Config(federation=federation, local=LocalConfig(**{key: 0.5})))


@pytest.mark.parametrize("key", ["fedprox_weight", "fedmoon_weight"])
def test_regularizers_are_refused_with_heads_that_stay_local(key):
    federation = FederationConfig(strategy="fedavg", aggregate_heads=False)
    with pytest.raises(ConfigError, match=r"federation\.aggregate_heads is false"):
        resolve(Config(federation=federation, local=LocalConfig(**{key: 0.5})))


@pytest.mark.parametrize(
    "strategy", ["fedavg", "fedcc-kmeans", "fedcc-maximin", "consensus", "lloyd"]
)
def test_regularizers_combine_with_every_strategy_that_sends_a_head(strategy):
    local = LocalConfig(fedprox_weight=0.001, fedmoon_weight=1.0)
    federation = FederationConfig(strategy=strategy)
    protocol = resolve(Config(federation=federation, local=local))
    assert protocol.local.regularizes
    assert protocol.aggregate_heads
