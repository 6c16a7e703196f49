"""Bytes by hand: a head of 2 numbers, 3 centroids of 4 channels, all float32.

The plan is sent once: a mean feature of 3 numbers, the number of steps and three shifts.
"""

from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.federation.head_precision import narrow_update
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import Traffic, bytes_up, make_delivery
from fusseg.segmentation.objective import Model

HEAD, CENTROIDS, NUMBER = 8, 48, 8
PLAN = 3 * 4 + 4 * NUMBER


def settle(**federation):
    """Rules for two rounds of training and three centroids of four channels."""
    init = "pca" if federation["strategy"] == "pca" else "random"
    model = ModelConfig(init=init, init_steps=1, whitening=0.0, num_clusters=3, code_dim=4)
    federated = FederationConfig(rounds=2, **{"keep": "last", **federation})
    return resolve(Config(model=model, federation=federated))


def send(traffic, state, task, protocol, client="a"):
    """Bytes of one exchange with a client that answers it."""
    delivery = make_delivery(state, task, protocol)
    traffic.send(client, delivery)
    traffic.arrived(client, delivery)
    return traffic.take()[client]["bytes_down"]


@pytest.fixture
def received(make_state):
    """Bytes one client receives, by round and exchange; heads change where clients train."""

    def receive(**settings):
        protocol, traffic = settle(**settings), Traffic()
        trained, found = 0, []
        for number in range(protocol.first_round, protocol.num_rounds + 1):
            found.append([])
            for task in protocol.tasks(number):
                head = {"w": torch.full((2,), float(trained))}
                state = make_state(head, torch.zeros(3, 4), round_number=number - 1)
                found[-1].append(send(traffic, state, task, protocol))
                trained += task.trains or task.name == "moments"
        found[0][0] -= PLAN
        return found

    return receive


def test_a_head_comes_once_for_lloyd_steps_that_follow_each_other(received):
    model, centroids = HEAD + CENTROIDS + NUMBER, CENTROIDS + NUMBER
    found = received(strategy="fedavg", lloyd_rounds=3)
    assert found == [[model], [model], [model], [centroids], [centroids]]
    found = received(strategy="lloyd", lloyd_rounds=1)
    # The head of a round's steps is the one that the next round starts from, and the finish.
    again = [centroids, model, centroids, centroids]
    assert found == [[model, model, centroids, centroids], again, [centroids]]
    found = received(strategy="pca", lloyd_rounds=2)
    assert found == [[NUMBER, model], [centroids], [centroids]]


def test_what_a_client_has_is_not_sent_to_it_again_and_to_others_it_is(make_state):
    protocol, traffic = settle(strategy="fedavg", lloyd_rounds=2), Traffic()
    state = make_state({"w": torch.ones(2)}, torch.zeros(3, 4), round_number=2)
    (task,) = protocol.tasks(3)
    whole, centroids = PLAN + HEAD + CENTROIDS + NUMBER, CENTROIDS + NUMBER
    assert send(traffic, state, task, protocol, "a") == whole
    assert send(traffic, state, task, protocol, "a") == centroids
    assert send(traffic, state, task, protocol, "b") == whole
    traffic.forget("a")
    assert send(traffic, state, task, protocol, "a") == whole
    moved = replace(state, model=Model({"w": torch.zeros(2)}, state.model.centroids))
    assert send(traffic, moved, task, protocol, "a") == HEAD + centroids
    other = replace(state, plan=replace(state.plan, num_steps=9))
    assert send(traffic, other, task, protocol, "b") == PLAN + centroids


def test_what_was_sent_and_not_answered_is_sent_again(make_state):
    protocol, traffic = settle(strategy="fedavg"), Traffic()
    state = make_state({"w": torch.ones(2)}, torch.zeros(3, 4))
    (task,) = protocol.tasks(1)
    delivery = make_delivery(state, task, protocol)
    assert traffic.send("a", delivery).keys() == {"plan", "head"}
    assert traffic.send("a", delivery).keys() == {"plan", "head"}
    traffic.arrived("a", delivery)
    assert traffic.send("a", delivery) == {}
    whole = PLAN + HEAD + CENTROIDS + NUMBER
    assert traffic.take() == {"a": {"bytes_up": 0, "bytes_down": 2 * whole + CENTROIDS + NUMBER}}


def test_bytes_of_a_round_are_summed_by_client_and_begin_anew(make_state):
    traffic = Traffic()
    traffic.receive("b", 5)
    traffic.receive("b", 7)
    traffic.receive("a", 1)
    assert traffic.take() == {
        "a": {"bytes_up": 1, "bytes_down": 0},
        "b": {"bytes_up": 12, "bytes_down": 0},
    }
    assert traffic.take() == {}


def test_heads_as_bfloat16_are_half_as_large(received):
    found = received(strategy="fedavg", wire="bfloat16")
    assert found == [[HEAD // 2 + CENTROIDS + NUMBER]] * 2


@pytest.mark.parametrize(
    ("switches", "training", "finish"),
    [
        # In the finish, too: from the last averaged ones the clients' own go on.
        ({"aggregate_heads": False}, CENTROIDS, [CENTROIDS, CENTROIDS]),
        ({"aggregate_centroids": False}, HEAD, [HEAD, 0]),
        ({"aggregate_heads": False, "aggregate_centroids": False}, 0, [0, 0]),
    ],
)
def test_what_stays_with_the_clients_is_not_sent(switches, training, finish, received):
    found = received(strategy="fedavg", lloyd_rounds=2, **switches)
    sent = [training, training, *finish]
    assert found == [[count + NUMBER] for count in sent]


@pytest.mark.parametrize(
    ("switches", "bundles", "fresh"),
    [
        ({}, {"plan", "head"}, {"centroids"}),
        ({"aggregate_heads": False}, {"plan"}, {"centroids"}),
        ({"aggregate_centroids": False}, {"plan", "head"}, set()),
    ],
)
def test_to_use_the_model_what_is_shared_of_it_is_needed(switches, bundles, fresh, make_state):
    state = make_state({"w": torch.ones(2)}, torch.zeros(3, 4), round_number=2)
    delivery = make_delivery(state, None, settle(strategy="fedavg", **switches))
    assert (delivery.kept.keys(), delivery.fresh.keys()) == (bundles, fresh)


def test_an_update_is_its_tensors_and_numbers(make_state):
    counts, cosines = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.float64)
    sums = torch.zeros(3, 4, dtype=torch.float64)
    parts = {"head.w": torch.zeros(2), "centroids": torch.zeros(3, 4)}
    trained = ClientUpdate("a", 1, 0.5, parts)
    assert bytes_up(trained) == HEAD + CENTROIDS + 2 * NUMBER
    protocol = settle(strategy="fedavg")
    state = make_state({"w": torch.zeros(2)}, torch.zeros(3, 4))
    described = protocol.tasks(1)[0].parts(state, protocol)
    halved = narrow_update(trained, described, state.model.head, "bfloat16")
    assert bytes_up(halved) == HEAD // 2 + CENTROIDS + 2 * NUMBER
    usage = ClientUpdate("a", 1, 0.5, {"counts": counts, "cosines": cosines})
    assert bytes_up(usage) == 2 * 3 * 8 + 2 * NUMBER
    summed = ClientUpdate("a", 1, parts={"sums": sums, "counts": counts})
    assert bytes_up(summed) == 96 + 24 + NUMBER
    second, first = torch.zeros(5, 5).double(), torch.zeros(5).double()
    moments = {"second": second, "first": first, "count": torch.tensor(3)}
    assert bytes_up(ClientUpdate("a", 1, parts=moments)) == (25 + 5 + 1) * 8 + NUMBER
