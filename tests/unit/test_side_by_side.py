"""Several starts in one exchange, against the exchanges of each alone."""

from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import Config, ModelConfig
from fusseg.core.errors import FederationError
from fusseg.federation.checks import check_plausible
from fusseg.federation.gathering import aggregate
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.parts import ClientFacts
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Work
from fusseg.federation.side_by_side import side_by_side
from fusseg.federation.state import Client, ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import make_delivery
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model

PROTOCOL = resolve(Config(model=ModelConfig(num_clusters=3, code_dim=2)))
BOTH = side_by_side(LLOYD_STEP, 2)


@pytest.fixture
def starts(seeded):
    return tuple(
        Model(initial_head(5, 2, seeded(seed)), torch.randn(3, 2, generator=seeded(seed)))
        for seed in (1, 2)
    )


@pytest.fixture
def state(make_state, starts):
    return replace(make_state({}, torch.zeros(3, 2), dim=5), starts=starts)


@pytest.fixture
def clients(random_features, tmp_path):
    return [Client(name, random_features(seed), tmp_path) for seed, name in enumerate("ab")]


def updates(task, state, clients, kept):
    for client in clients:
        sent = task.measure(Work(client, state.model, state, PROTOCOL, kept))
        yield ClientUpdate(client.client_id, len(client.features), parts=sent)


def test_each_start_moves_as_if_it_were_the_only_one(state, starts, clients, seeded, same_bits):
    together, kept = state, KeptCodes(0, 0)
    alone = [replace(state, model=start, starts=()) for start in starts]
    for _ in range(2):
        sent = updates(BOTH, together, clients, kept)
        together = aggregate(together, sent, PROTOCOL, BOTH, seeded(0))
        alone = [
            aggregate(
                one,
                updates(LLOYD_STEP, one, clients, KeptCodes(0, 0)),
                PROTOCOL,
                LLOYD_STEP,
                seeded(0),
            )
            for one in alone
        ]
    assert not same_bits(together.starts[0], starts[0])
    for found, expected in zip(together.starts, alone, strict=True):
        assert same_bits(found, expected.model)


def test_codes_of_every_start_are_kept(state, clients):
    kept = KeptCodes(0, 0)
    list(updates(BOTH, state, clients, kept))
    first, again = (
        [
            kept.of_client("a", clients[0].features, start.head, torch.zeros(5), number)
            for number, start in enumerate(state.starts)
        ]
        for _ in range(2)
    )
    assert [one is other for one, other in zip(first, again, strict=True)] == [True, True]


def test_a_part_of_a_start_is_checked_as_if_it_were_alone(state, clients):
    [sent, _] = updates(BOTH, state, clients, KeptCodes(0, 0))
    facts = ClientFacts(sent.num_images, 12)
    parts = BOTH.parts(state, PROTOCOL)
    check_plausible(sent, parts, facts)
    far = {**sent.parts, "start1.sums": sent.parts["start1.sums"] + 1000}
    with pytest.raises(FederationError, match="a sum of unit codes"):
        check_plausible(replace(sent, parts=far), parts, facts)


def test_clients_receive_the_starts_in_place_of_the_model(state):
    state = replace(state, model=Model(state.starts[0].head, torch.zeros(3, 2)))
    delivery = make_delivery(state, BOTH, PROTOCOL)
    assert sorted(delivery.kept) == ["plan", "start0.head", "start1.head"]
    assert sorted(delivery.fresh) == ["start0.centroids", "start1.centroids"]
    later = make_delivery(state, LLOYD_STEP, PROTOCOL)
    assert (sorted(later.kept), sorted(later.fresh)) == (["head", "plan"], ["centroids"])
