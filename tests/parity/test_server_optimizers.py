"""The server's optimizers against torch's SGD with momentum, and a loop over every weight."""

from dataclasses import replace
from math import sqrt

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig
from fusseg.federation.server_step import step_server
from fusseg.federation.strategies import resolve
from fusseg.segmentation.head import initial_head

ROUNDS = 8


def follow(state, averages, **federation):
    """The heads after each round."""
    protocol = resolve(Config(federation=FederationConfig(**federation)))
    for average in averages:
        head, optimizer = step_server(state, average, protocol)
        state = replace(state, model=replace(state.model, head=head), optimizer=optimizer)
        yield head


@pytest.fixture
def state(make_state, seeded):
    return make_state(initial_head(4, 3, seeded(0)), torch.zeros(6, 3))


@pytest.fixture
def averages(seeded):
    """What the clients' heads average to in each round; changes become small, as in training."""
    return [
        {name: part / number for name, part in initial_head(4, 3, seeded(number)).items()}
        for number in range(1, ROUNDS + 1)
    ]


def test_momentum_takes_the_steps_of_torchs_sgd(state, averages):
    theirs = {name: part.double().clone() for name, part in state.model.head.items()}
    sgd = torch.optim.SGD(theirs.values(), lr=0.7, momentum=0.8, foreach=False)
    rate = {"server_learning_rate": 0.7, "server_momentum": 0.8}
    heads = follow(state, averages, server_optimizer="momentum", **rate)
    for head, average in zip(heads, averages, strict=True):
        for name, weight in theirs.items():
            weight.grad = weight - average[name].double()
        sgd.step()
        for name, weight in theirs.items():
            # Our heads are rounded to float32 in every round.
            assert torch.allclose(head[name].double(), weight, rtol=0, atol=1e-6)


def test_adam_takes_the_steps_of_a_loop_over_every_weight(state, averages):
    tau, rate = 1e-3, 0.05
    means, squares = {}, {}
    weights = {
        (name, place): weight
        for name, part in state.model.head.items()
        for place, weight in enumerate(part.flatten().tolist())
    }
    heads = follow(state, averages, server_optimizer="adam", server_learning_rate=rate)
    for head, average in zip(heads, averages, strict=True):
        for (name, place), weight in weights.items():
            change = average[name].flatten()[place].item() - weight
            mean = 0.9 * means.get((name, place), 0) + 0.1 * change
            square = 0.99 * squares.get((name, place), tau**2) + 0.01 * change**2
            means[name, place], squares[name, place] = mean, square
            weights[name, place] = weight + rate * mean / (sqrt(square) + tau)
            assert head[name].flatten()[place].item() == pytest.approx(
                weights[name, place], abs=1e-6
            )


def test_momentum_of_zero_is_a_step_without_an_optimizer(state, averages):
    plain = follow(state, averages, server_learning_rate=0.5)
    still = {"server_optimizer": "momentum", "server_momentum": 0.0}
    for left, right in zip(
        plain, follow(state, averages, server_learning_rate=0.5, **still), strict=True
    ):
        assert all(torch.equal(left[name], right[name]) for name in left)
