"""A strategy that the package does not have, whose clients send one more sum."""

import pytest
import torch
from torch import Tensor

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import FederationError
from fusseg.federation.checks import check_plausible
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.parts import CENTROIDS, ClientFacts, Part
from fusseg.federation.protocol import Strategy, sent_parts
from fusseg.federation.rounds import Round, initial_state, run_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import Client
from fusseg.federation.strategies import STRATEGIES, resolve
from fusseg.federation.traffic import num_bytes
from fusseg.federation.train_task import centroid_part, each_round, send_centroids, train_task

STATISTIC = "squares"


def square_parts(state, protocol):
    dim = len(state.plan.mean_feature)

    def check(parts, _facts):
        return f"{STATISTIC} below 0" if bool((parts[STATISTIC] < 0).any()) else None

    squares = Part((dim,), torch.float64, "sum", check)
    return {**centroid_part(state, protocol), STATISTIC: squares}


def measure_squares(work) -> dict[str, Tensor]:
    """The sum of a client's squared features, channel by channel."""
    pooled = torch.from_numpy(work.client.features.pooled).double()
    return {**send_centroids(work), STATISTIC: pooled.square().sum(dim=0)}


@pytest.fixture
def seen(monkeypatch):
    """What the strategy `squares` was given to merge."""
    found = []

    def merge(gathered):
        found.append(gathered)
        shift = float(gathered.totals[STATISTIC].sum())
        return torch.stack(gathered.collected[CENTROIDS]).mean(dim=0) * 0 + shift

    task = train_task(merge, square_parts, measure_squares)
    monkeypatch.setitem(STRATEGIES, "squares", Strategy(each_round(task)))
    return found


@pytest.fixture
def clients(random_features, tmp_path):
    sizes = {"a": 5, "b": 7, "c": 3}
    return [
        Client(name, random_features(seed, num_images=size, name=name), tmp_path)
        for seed, (name, size) in enumerate(sizes.items())
    ]


def settle(**federation):
    return resolve(
        Config(
            model=ModelConfig(init="random", num_clusters=3, code_dim=4),
            local=LocalConfig(steps=2, batch_size=2, tables={"stego": {"positions": 4}}),
            federation=FederationConfig(strategy="squares", **federation),
        )
    )


def start_of(clients, protocol):
    hellos = [say_hello(client, protocol, center=True) for client in clients]
    plan = agree(hellos, protocol, clients[0].features.fingerprint, center=True)
    return initial_state(protocol, plan)


def test_its_merge_sees_the_total_of_the_clients_in_every_round(clients, seen):
    protocol = settle(rounds=2, lloyd_rounds=1)
    start, exchange = start_of(clients, protocol), simulate(clients, {}, protocol)
    events = list(run_rounds(start, exchange, protocol))
    rounds = [event for event in events if isinstance(event, Round)]
    pooled = torch.cat([torch.from_numpy(client.features.pooled) for client in clients]).double()
    expected = pooled.square().sum(dim=0)
    assert [gathered.round_number for gathered in seen] == [1, 2]
    for gathered, done in zip(seen, rounds, strict=False):
        torch.testing.assert_close(gathered.totals[STATISTIC], expected)
        assert len(gathered.collected[CENTROIDS]) == 3
        assert gathered.protocol is protocol
        centroids = torch.full((3, 4), float(expected.sum()))
        torch.testing.assert_close(done.state.model.centroids, centroids)
    # The finish takes steps of Lloyd, as after any strategy.
    assert len(rounds) == 3
    assert {name for update in rounds[2].updates for name in update.parts} == {"sums", "counts"}


def test_its_statistic_is_counted_among_the_bytes_and_checked(clients, seen):
    protocol = settle(rounds=1)
    start, exchange = start_of(clients, protocol), simulate(clients, {}, protocol)
    (task,) = protocol.tasks(1)
    sent, parts = list(exchange(start, task)), sent_parts(task, start, protocol)
    traffic = exchange.traffic.take()
    for update in sent:
        assert update.parts[STATISTIC].dtype == torch.float64
        expected = num_bytes(*update.parts.values()) + 16
        assert traffic[update.client_id]["bytes_up"] == expected
        facts = ClientFacts(update.num_images, 12)
        check_plausible(update, parts, facts)
        update.parts[STATISTIC][0] = -1
        with pytest.raises(FederationError, match="sent squares below 0"):
            check_plausible(update, parts, facts)
    assert seen == []


def test_a_statistic_of_another_shape_is_refused(clients, seen):
    protocol = settle(rounds=1)
    start, exchange = start_of(clients, protocol), simulate(clients, {}, protocol)

    def tampered(state, task):
        for update in exchange(state, task):
            update.parts[STATISTIC] = torch.zeros(2).double()
            yield update

    with pytest.raises(FederationError, match=r"'a' sent squares of shape \(2,\), expected \(5,\)"):
        list(run_rounds(start, tampered, protocol))
    assert seen == []


def test_nothing_of_it_is_sent_where_centroids_stay_with_the_clients(clients, seen):
    protocol = settle(rounds=1, aggregate_centroids=False)
    start, exchange = start_of(clients, protocol), simulate(clients, {}, protocol)
    *_, last = run_rounds(start, exchange, protocol)
    names = {name for update in last.updates for name in update.parts}
    assert names == {f"head.{name}" for name in start.model.head}
    assert seen == []
