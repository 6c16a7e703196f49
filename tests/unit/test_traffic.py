"""Bytes by hand: a head of 2 numbers, 3 centroids of 4 channels, all float32."""

import pytest
import torch

from fusseg.config import FederationConfig
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
from fusseg.federation.rounds import Answers, Round
from fusseg.federation.schedule import num_rounds, tasks
from fusseg.federation.state import CentroidUsage, ClientUpdate
from fusseg.federation.strategies import resolve_federation
from fusseg.federation.traffic import bytes_down, bytes_up

HEAD, CENTROIDS, NUMBER = 8, 48, 8


def received(make_state, **settings):
    """Bytes one client receives, by round and exchange."""
    federation = resolve_federation(FederationConfig(rounds=2, **settings))
    found = []
    for number in range(1, num_rounds(federation) + 1):
        state = make_state({"w": torch.zeros(2)}, torch.zeros(3, 4), round_number=number)
        exchanges = tuple(Answers(task, ()) for task in tasks(number, federation))
        finished = Round(state, exchanges)
        found.append([bytes_down(finished, place, federation) for place in range(len(exchanges))])
    return found


def test_a_head_comes_once_for_lloyd_steps_that_follow_each_other(make_state):
    model, centroids = HEAD + CENTROIDS + NUMBER, CENTROIDS + NUMBER
    found = received(make_state, strategy="fedavg", lloyd_rounds=3)
    assert found == [[model], [model], [model], [centroids], [centroids]]
    found = received(make_state, strategy="lloyd", lloyd_rounds=1)
    # the finish goes on with the head of the last round's steps
    assert found == [[model, model, centroids, centroids]] * 2 + [[centroids]]
    found = received(make_state, strategy="pca", lloyd_rounds=2)
    assert found == [[NUMBER, model], [centroids]]


def test_a_head_comes_in_every_round_that_draws_its_clients_anew(make_state):
    model, centroids = HEAD + CENTROIDS + NUMBER, CENTROIDS + NUMBER
    sampled = {"clients_per_round": 3}
    found = received(make_state, strategy="fedavg", lloyd_rounds=2, **sampled)
    assert found == [[model], [model], [model], [model]]
    found = received(make_state, strategy="lloyd", lloyd_rounds=1, **sampled)
    assert found == [[model, model, centroids, centroids]] * 2 + [[model]]


def test_heads_as_bfloat16_are_half_as_large(make_state):
    found = received(make_state, strategy="fedavg", wire="bfloat16")
    assert found == [[HEAD // 2 + CENTROIDS + NUMBER]] * 2


@pytest.mark.parametrize(
    ("switches", "training", "finish"),
    [
        ({"aggregate_heads": False}, CENTROIDS, 0),
        ({"aggregate_centroids": False}, HEAD, HEAD),
        ({"aggregate_heads": False, "aggregate_centroids": False}, 0, 0),
    ],
)
def test_what_stays_with_the_clients_is_not_sent(switches, training, finish, make_state):
    found = received(make_state, strategy="fedavg", lloyd_rounds=2, **switches)
    assert found == [[training + NUMBER]] * 2 + [[finish + NUMBER], [NUMBER]]


def test_an_update_is_its_tensors_and_numbers():
    counts, cosines = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.float64)
    sums = torch.zeros(3, 4, dtype=torch.float64)
    federation = FederationConfig()
    trained = ClientUpdate("a", 1, {"w": torch.zeros(2)}, torch.zeros(3, 4), loss=0.5)
    halved = HEAD // 2 + CENTROIDS + 2 * NUMBER
    assert bytes_up(trained, FederationConfig(wire="bfloat16")) == halved
    assert bytes_up(trained, federation) == HEAD + CENTROIDS + 2 * NUMBER
    consensus = ClientUpdate("a", 1, loss=0.5, usage=CentroidUsage(counts, cosines))
    assert bytes_up(consensus, federation) == 2 * 3 * 8 + 2 * NUMBER
    summed = ClientUpdate("a", 1, code_sums=CodeSums(sums, counts))
    assert bytes_up(summed, federation) == 96 + 24 + NUMBER
    moments = FeatureMoments(torch.zeros(5, 5).double(), torch.zeros(5).double(), torch.tensor(3))
    measured = ClientUpdate("a", 1, moments=moments)
    assert bytes_up(measured, federation) == (25 + 5 + 1) * 8 + NUMBER
