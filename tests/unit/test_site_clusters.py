"""Clients that train and send only the clusters that they have (`federation.site_clusters`)."""

from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import ConfigError, FederationError
from fusseg.federation.checks import check_plausible
from fusseg.federation.gathering import aggregate
from fusseg.federation.parts import ClientFacts
from fusseg.federation.protocol import sent_parts
from fusseg.federation.simulation import simulate
from fusseg.federation.site_clusters import used_clusters
from fusseg.federation.state import Client, ClientUpdate, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import Trainee, TrainingPlan, train_together

STRATEGIES = ["fedavg", "fedcc-kmeans", "fedcc-maximin", "consensus"]
SHIFTS = {"shift_self": 0.4, "shift_neighbor": 0.2, "shift_random": 0.3}


def settle(num_clusters=3, code_dim=2, local=None, **federation):
    settings = {"strategy": "fedavg", "site_clusters": "used", "positions_per_image": 0}
    return resolve(
        Config(
            model=ModelConfig(init="random", num_clusters=num_clusters, code_dim=code_dim),
            local=local or LocalConfig(),
            federation=FederationConfig(**settings | federation),
        )
    )


def sent(client, num_images, used, rows, **more):
    parts = {
        "head.w": torch.tensor([0.0]),
        "used": torch.tensor(used),
        "centroids": torch.tensor(rows),
        **more,
    }
    return ClientUpdate(client, num_images, loss=0.0, parts=parts)


def merged(updates, state, generator, **federation):
    protocol = settle(**federation)
    (task,) = protocol.tasks(1)
    return aggregate(state, updates, protocol, task, generator).model.centroids


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.tensor([0.0])}, torch.tensor([[9.0, 0], [0, 9], [9, 9]]))


def test_each_centroid_is_the_average_of_the_clients_that_have_it(state, seeded):
    updates = [
        sent("a", 1, [1, 1, 0], [[1.0, 0.0], [0.0, 2.0]]),
        sent("b", 3, [1, 0, 0], [[5.0, 0.0]]),
    ]
    found = merged(updates, state, seeded(0))
    assert found.tolist() == [[4.0, 0.0], [0.0, 2.0], [9.0, 9.0]]
    equal = merged(updates, state, seeded(0), weights="equal")
    assert equal.tolist() == [[3.0, 0.0], [0.0, 2.0], [9.0, 9.0]]


def test_marks_are_no_counts_that_the_bound_on_weights_lowers(state, seeded):
    updates = [
        sent("a", 100, [1, 0, 0], [[1.0, 0.0]]),
        sent("b", 1, [1, 1, 0], [[3.0, 0.0], [0.0, 4.0]]),
    ]
    found = merged(updates, state, seeded(0), max_weight_share=0.5)
    # The second cluster is one client's own, who moves it half of the way.
    assert found.tolist() == [[2.0, 0.0], [0.0, 6.5], [9.0, 9.0]]


def test_a_pool_holds_the_clients_centroids_and_those_that_nobody_has(state, seeded):
    updates = [
        sent("a", 1, [1, 0, 0], [[1.0, 0.0]]),
        sent("b", 1, [1, 1, 0], [[1.0, 0.0], [0.0, 4.0]]),
    ]
    for strategy in ("fedcc-kmeans", "fedcc-maximin"):
        found = merged(updates, state, seeded(0), strategy=strategy, distance="euclidean")
        assert sorted(found.tolist()) == [[0.0, 4.0], [1.0, 0.0], [9.0, 9.0]], strategy


def test_no_weight_moves_a_centroid_further_than_its_share(state, seeded):
    updates = [
        sent("honest", 2, [1, 1, 0], [[1.0, 0.0], [0.0, 1.0]]),
        sent("liar", 10_000_000, [1, 0, 1], [[5.0, 0.0], [1.0, 9.0]]),
    ]
    found = merged(updates, state, seeded(0), max_weight_share=0.5)
    assert found.tolist() == [[3.0, 0.0], [0.0, 5.0], [5.0, 9.0]]


def test_consensus_counts_no_codes_at_a_centroid_that_the_client_did_not_train(state, seeded):
    def found(other):
        counts = [torch.tensor([0, 0, 100]), torch.tensor([100, 0, other])]
        cosines = [(one > 0).double() for one in counts]
        updates = [
            sent("a", 1, [0, 0, 1], [[1.0, 1.2]], counts=counts[0], cosines=cosines[0]),
            sent("b", 1, [1, 0, 0], [[9.0, 0.1]], counts=counts[1], cosines=cosines[1]),
        ]
        after = replace(state, round_number=3)
        return merged(updates, after, seeded(0), strategy="consensus")

    assert torch.equal(found(0), found(50))
    assert torch.allclose(found(0)[2], torch.tensor([1.0, 1.2]) / 2.44**0.5)


def test_consensus_keeps_the_servers_centroids_of_clusters_that_nobody_has(state, seeded):
    counts = torch.tensor([100, 0, 100])
    cosines = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    updates = [
        sent("a", 1, [1, 0, 0], [[1.0, 0.2]], counts=counts, cosines=cosines),
        sent("b", 1, [1, 0, 0], [[1.0, 0.2]], counts=counts, cosines=cosines),
    ]
    after = replace(state, round_number=3)
    found = merged(updates, after, seeded(0), strategy="consensus")
    assert torch.allclose(found[0], torch.tensor([1.0, 0.2]) / 1.04**0.5)
    # Nothing moved the others: they are the server's, at unit length.
    assert torch.allclose(found[1:], torch.tensor([[0.0, 1.0], [0.5**0.5, 0.5**0.5]]))


@pytest.mark.parametrize(
    ("used", "rows", "message"),
    [
        ([1, 1, 0], [[9.0, 0.0]], "1 centroids, but marks 2 clusters"),
        ([2, 0, 0], [[9.0, 0.0], [9.0, 0.0]], "a mark of 2"),
        ([0, 1, 0], [[9.0, 0.0]], "centroids with a value that moved by 9"),
        ([0, 0, 0], [[9.0, 0.0]], "but marks 0 clusters"),
    ],
)
def test_marks_and_centroids_that_do_not_fit_are_refused(used, rows, message, state):
    protocol = settle()
    (task,) = protocol.tasks(1)
    parts = sent_parts(task, state, protocol)
    with pytest.raises(FederationError, match=message):
        check_plausible(sent("a", 1, used, rows), parts, ClientFacts(1, 4))


@pytest.mark.parametrize("more", [{}, {"aggregate_heads": False}, {"aggregate_centroids": False}])
@pytest.mark.parametrize("strategy", ["lloyd", "pca", "local", "centralized", *STRATEGIES])
def test_only_strategies_that_take_some_centroids_allow_it(strategy, more):
    allowed = strategy in STRATEGIES and not more
    config = Config(
        federation=FederationConfig(strategy=strategy, site_clusters="used", **more),
        model=ModelConfig(init="pca"),
    )
    if allowed:
        resolve(config)
        return
    with pytest.raises(ConfigError, match=r"federation\.site_clusters is 'used', but|one head"):
        resolve(config)


@pytest.fixture
def federation(random_features, seeded, tmp_path):
    """Three clients, and a state to start from."""
    clients = [
        Client(name, random_features(number), tmp_path / name) for number, name in enumerate("abc")
    ]
    dim = clients[0].features.map_shape[2]
    head = initial_head(dim, 4, seeded(1))
    plan = TrainingPlan(3, torch.zeros(dim), SHIFTS)
    centroids = torch.randn(5, 4, generator=seeded(2))
    return clients, GlobalState(0, Model(head, centroids), plan)


LOCAL = LocalConfig(batch_size=4, steps=3, tables={"stego": {"positions": 9}})


def train_once(clients, state, protocol, at_once=1):
    exchange = simulate(clients, {}, protocol, at_once)
    (task,) = protocol.tasks(1)
    return list(exchange(state, task))


@pytest.mark.parametrize("num_clients", [1, 2])
def test_centroids_of_other_clusters_stay_bit_by_bit_while_the_others_move(
    federation, seeded, num_clients
):
    clients, state = federation
    local = settle(5, 4, replace(LOCAL, objective="smooseg", tables={})).local
    used = torch.tensor([True, False, True, False, False])
    trainees = [
        Trainee(state.model, client.features, None, seeded(place), used=used if place else ~used)
        for place, client in enumerate(clients[:num_clients])
    ]
    start = state.model.centroids
    for trainee, trained in zip(trainees, train_together(trainees, state.plan, local), strict=True):
        moved = (trained.model.centroids != start).any(dim=1)
        assert moved.tolist() == trainee.used.tolist() == trained.used.tolist()


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("objective", ["stego", "smooseg"])
def test_a_client_moves_and_sends_only_its_own_clusters(federation, objective, at_once):
    clients, state = federation
    local = replace(LOCAL, objective=objective, tables={})
    protocol = settle(5, 4, local, min_cluster_share=0.2)
    for client, update in zip(clients, train_once(clients, state, protocol, at_once), strict=True):
        used = used_clusters(client, state.model, state, protocol)
        assert update.parts["used"].tolist() == used.long().tolist()
        assert 0 < used.sum() < 5
        moved = update.parts["centroids"]
        assert moved.shape == (int(used.sum()), 4)
        assert bool((moved != state.model.centroids[used]).any(dim=1).all())


def test_a_client_has_the_clusters_with_the_share_and_always_the_largest(federation):
    clients, state = federation
    for client in clients:
        found = {
            share: used_clusters(
                client, state.model, state, settle(5, 4, LOCAL, min_cluster_share=share)
            )
            for share in (1e-9, 0.15, 0.3, 0.99)
        }
        sizes = [int(used.sum()) for used in found.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == 1
        assert used_clusters(client, state.model, state, settle(5, 4, site_clusters="all")) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_all_have_all_clusters_nothing_changes(strategy, federation, seeded):
    clients, state = federation
    ends = []
    for kind in ("all", "used"):
        # Every cluster in which a client has a single position counts as its own.
        protocol = settle(
            5, 4, LOCAL, strategy=strategy, site_clusters=kind, min_cluster_share=1e-9
        )
        if kind == "used":
            for client in clients:
                assert bool(used_clusters(client, state.model, state, protocol).all())
        (task,) = protocol.tasks(1)
        updates = train_once(clients, state, protocol)
        ends.append(aggregate(state, updates, protocol, task, seeded(0)).model)
    assert torch.allclose(ends[0].centroids, ends[1].centroids, atol=1e-6)
    assert all(torch.equal(ends[0].head[name], ends[1].head[name]) for name in ends[0].head)
