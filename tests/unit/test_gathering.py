"""The server's half of an exchange: updates are folded as they come, and let go."""

from dataclasses import replace
from itertools import permutations
from weakref import ref

import pytest
import torch

from fusseg.config import FederationConfig
from fusseg.errors import FederationError
from fusseg.federation.aggregation import Gathering, aggregate
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import sum_moments
from fusseg.federation.rounds import Round, run_rounds
from fusseg.federation.state import ClientUpdate, num_bytes
from fusseg.federation.traffic import bytes_up

FEDAVG = FederationConfig(strategy="fedavg")
WEIGHTS = 1237


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.zeros(WEIGHTS)}, torch.zeros(2, 3))


def make_updates(num_clients):
    for number in range(num_clients):
        generator = torch.Generator().manual_seed(number)
        head = {"w": torch.randn(WEIGHTS, generator=generator)}
        centroids = torch.randn(2, 3, generator=generator)
        yield ClientUpdate(f"client-{number:02d}", number + 1, head, centroids, loss=0.5)


@pytest.mark.parametrize("strategy", ["fedavg", "fedcc-kmeans", "fedcc-maximin", "lloyd"])
def test_the_server_never_holds_the_heads_of_all_clients(strategy, state):
    federation = FederationConfig(strategy=strategy, rounds=1)
    sums = CodeSums(torch.ones(2, 3).double(), torch.ones(2, dtype=torch.int64))
    heads, alive = [], []

    def exchange(_state, task):
        for update in make_updates(50):
            if task == "lloyd":
                yield replace(update, head=None, centroids=None, loss=None, code_sums=sums)
                continue
            heads.append(ref(update.head["w"]))
            alive.append(sum(head() is not None for head in heads))
            yield update if strategy != "lloyd" else replace(update, centroids=None)

    for event in run_rounds(state, exchange, federation, seed=0):
        last = event
    assert isinstance(last, Round)
    assert len(last.updates) == 50
    assert len(alive) == 50
    assert max(alive) <= 3
    assert not any(head() is not None for head in heads)


def test_a_round_keeps_what_a_head_weighs_without_its_numbers(state):
    gathering = Gathering(state, FEDAVG, "train")
    (update,) = make_updates(1)
    gathering.add(update)
    (kept,) = gathering.updates
    assert kept.head["w"].device.type == "meta"
    assert num_bytes(kept.head) == 4 * WEIGHTS
    assert bytes_up(kept, FEDAVG) == bytes_up(update, FEDAVG)
    assert kept.tensors().keys() == update.tensors().keys()
    assert kept.centroids is update.centroids
    assert (kept.client_id, kept.num_images, kept.loss) == ("client-00", 1, 0.5)


@pytest.mark.parametrize("weighted", [True, False])
def test_arrival_in_any_order_gives_the_same_bits(weighted, state, same_bits, seeded):
    federation = replace(FEDAVG, weighted=weighted)
    updates = list(make_updates(5))
    models = [
        aggregate(state, order, federation, seeded(0)).model for order in permutations(updates)
    ]
    assert len(models) == 120
    assert all(same_bits(models[0], model) for model in models[1:])


@pytest.mark.parametrize("task", ["lloyd", "moments"])
def test_sums_in_any_order_give_the_same_bits(task, state, make_state, same_bits, seeded):
    features = torch.randn(40, 7, generator=seeded(1)) + 3
    start = make_state({"w": torch.zeros(1)}, torch.zeros(2, 3), dim=7)
    updates = []
    for number, part in enumerate(features.split(8)):
        found = {"moments": sum_moments([part], 7)}
        if task == "lloyd":
            counts = torch.tensor([number, 3])
            found = {"code_sums": CodeSums(part[:2, :3].double() / 7, counts)}
        updates.append(ClientUpdate(f"client-{number}", 2, **found))
    models = [
        aggregate(start, order, FEDAVG, seeded(0), task).model
        for order in (updates, updates[::-1], updates[2:] + updates[:2])
    ]
    assert all(same_bits(models[0], model) for model in models[1:])
    assert bool(models[0].centroids.any())


def test_an_update_that_does_not_fit_is_refused_before_it_is_folded(state, seeded):
    gathering = Gathering(state, FEDAVG, "train")
    good, bad = make_updates(2)
    gathering.add(good)
    bad = replace(bad, head={"w": torch.full((WEIGHTS,), torch.nan)})
    with pytest.raises(FederationError, match="client 'client-01' sent w with values that are not"):
        gathering.add(bad)
    assert [update.client_id for update in gathering.updates] == ["client-00"]
    merged = gathering.merge(seeded(0))
    assert torch.equal(merged.model.head["w"], good.head["w"])
