"""The server's step by hand: what it remembers, what it returns, and where it is refused."""

from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.core.errors import ConfigError, FederationError
from fusseg.federation.gathering import aggregate
from fusseg.federation.head_precision import receive_state
from fusseg.federation.server_step import step_server
from fusseg.federation.strategies import resolve


def settle(init="random", **federation):
    """Rules for two centroids of two channels."""
    model = ModelConfig(init=init, num_clusters=2, code_dim=2)
    return resolve(Config(model=model, federation=FederationConfig(**federation)))


def run_steps(state, changes, protocol):
    """Follow averages that lie by the given changes away from the head, and list the heads."""
    heads = []
    for change in changes:
        average = {"w": state.model.head["w"] + torch.tensor(change)}
        head, optimizer = step_server(state, average, protocol)
        state = replace(state, model=replace(state.model, head=head), optimizer=optimizer)
        heads.append(head["w"])
    return heads, state


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.tensor([0.0, 2.0])}, torch.ones(2, 2))


def test_without_an_optimizer_the_average_is_the_next_head(state):
    average = {"w": torch.tensor([0.1, 0.7])}
    head, optimizer = step_server(state, average, settle())
    assert head is average
    assert optimizer == {}


def test_without_an_optimizer_nothing_is_remembered(state):
    heads, after = run_steps(state, [[4.0, 0.0], [0.0, 4.0]], settle(server_learning_rate=0.5))
    assert [head.tolist() for head in heads] == [[2.0, 2.0], [2.0, 4.0]]
    assert after.optimizer == {}


def test_momentum_goes_on_in_the_direction_of_earlier_rounds(state):
    protocol = settle(server_optimizer="momentum", server_learning_rate=0.5, server_momentum=0.5)
    heads, after = run_steps(state, [[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]], protocol)
    # velocities 4, 0 and 2, 4 and 1, 2
    assert [head.tolist() for head in heads] == [[2.0, 2.0], [3.0, 4.0], [3.5, 5.0]]
    velocity = after.optimizer["velocity"]["w"]
    assert velocity.tolist() == [1.0, 2.0]
    assert velocity.dtype == torch.float64


def test_adam_divides_the_mean_change_by_its_usual_size(state):
    protocol = settle(server_optimizer="adam", server_learning_rate=0.1)
    changes = [[0.001, 0.0], [0.001, 0.0]]
    heads, after = run_steps(state, changes, protocol)
    # Changes of tau keep the average of squares at tau^2: the mean is divided by 2 tau = 0.002,
    # and is 0.0001, then 0.00019.
    assert heads[0].tolist() == pytest.approx([0.1 * 0.05, 2.0], rel=1e-6)
    assert heads[1].tolist() == pytest.approx([0.1 * (0.05 + 0.095), 2.0], rel=1e-6)
    assert after.optimizer["mean"]["w"].tolist() == pytest.approx([0.00019, 0.0])
    # Without a change, the average of squares falls by a hundredth in a round.
    assert after.optimizer["square"]["w"].tolist() == pytest.approx([1e-6, 0.9801e-6])
    assert {part.dtype for kept in after.optimizer.values() for part in kept.values()} == {
        torch.float64
    }


def test_adam_moves_all_weights_alike_where_changes_are_large(state):
    protocol = settle(server_optimizer="adam", server_learning_rate=0.1)
    (head,), _ = run_steps(state, [[1000.0, -10.0]], protocol)
    # mean / root = 0.1 / 0.1, whatever the change
    assert head.tolist() == pytest.approx([0.1, 1.9], rel=1e-3)


def test_an_exchange_moves_the_head_by_the_average_of_the_clients(state, make_update, seeded):
    protocol = settle(strategy="fedavg", server_optimizer="momentum", server_momentum=0.5)
    (task,) = protocol.tasks(1)
    for expected in ([6.0, 1.0], [9.0, 0.5]):
        # The average is 6, 1; the second step adds half of the first.
        updates = [
            make_update("a", 1, [0.0, 4.0], [[1.0, 0.0], [0.0, 1.0]]),
            make_update("b", 3, [8.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]),
        ]
        state = aggregate(state, updates, protocol, task, seeded(0))
        assert state.model.head["w"].tolist() == expected
        assert state.model.centroids.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_step_to_infinity_is_refused_with_the_rate_to_lower(state):
    state = replace(state, round_number=4)
    average = {"w": torch.tensor([3e38, 0.0])}
    protocol = settle(server_optimizer="momentum", server_learning_rate=2.0)
    message = r"step of round 5 made weights of head\.w that are not finite; lower .*rate \(2\.0\)"
    with pytest.raises(FederationError, match=message):
        step_server(state, average, protocol)


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_what_the_optimizer_keeps_is_not_sent(wire, state):
    _, after = run_steps(state, [[1.0, 1.0]], settle(server_optimizer="momentum"))
    assert after.optimizer
    assert receive_state(after, wire).optimizer == {}


def refused(*fragments, **settings):
    with pytest.raises(ConfigError) as caught:
        settle(**settings)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_an_optimizer_is_refused_where_no_heads_are_averaged(optimizer):
    settings = {"server_optimizer": optimizer, "server_learning_rate": 0.1}
    begin = f"federation.server_optimizer is {optimizer!r}"
    for strategy in ("local", "centralized"):
        refused(begin, repr(strategy), "set it to 'none'", strategy=strategy, **settings)
    refused(begin, "'pca'", "set it to 'none'", strategy="pca", init="pca", **settings)
    refused(begin, "federation.aggregate_heads is false", aggregate_heads=False, **settings)


def test_adam_with_the_rate_of_the_average_is_refused():
    refused("federation.server_learning_rate is 1.0", "at most 0.1", server_optimizer="adam")
    refused("is 0.11", "such as 0.01", server_optimizer="adam", server_learning_rate=0.11)
    assert settle(server_optimizer="adam", server_learning_rate=0.1).server_optimizer == "adam"
    assert settle(server_optimizer="momentum").server_learning_rate == 1


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_never_fades_is_refused(value):
    refused(f"federation.server_momentum must lie in [0, 1), got {value}", server_momentum=value)
