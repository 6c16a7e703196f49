from dataclasses import replace
from itertools import combinations

import pytest
import torch

from fusseg.config import FederationConfig, LocalConfig, ModelConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.federation.client import Client, train_locally
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.rounds import Round, initial_state, run_rounds, simulate
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve_federation
from fusseg.randomness import round_generator
from fusseg.runs import SavedState, load_state, save_state
from fusseg.segmentation.training import train

SEED = 3
LOCAL = LocalConfig(steps=2, batch_size=4, positions=9)
MODEL = ModelConfig(num_clusters=3, code_dim=4)
FEDERATIONS = {
    name: resolve_federation(FederationConfig(rounds=3, **settings))
    for name, settings in {
        "fedavg": {"strategy": "fedavg"},
        "fedcc-kmeans": {"strategy": "fedcc-kmeans"},
        "fedcc-maximin": {"strategy": "fedcc-maximin", "distance": "euclidean"},
        "own heads": {"strategy": "fedcc-kmeans", "aggregate_heads": False},
        "own centroids": {"strategy": "fedavg", "aggregate_centroids": False},
        "local": {"strategy": "local"},
    }.items()
}


@pytest.fixture
def clients(random_features, tmp_path):
    sizes = {"a": 5, "b": 7, "c": 3}
    return [
        Client(name, random_features(seed, num_images=size, name=name), tmp_path)
        for seed, (name, size) in enumerate(sizes.items())
    ]


@pytest.fixture
def start(clients):
    hellos = [say_hello(client, LOCAL, SEED, center=True) for client in clients]
    plan = agree(hellos, LOCAL, clients[0].features.fingerprint, center=True)
    return initial_state(MODEL, plan, SEED)


def finish(state, own_models, clients, federation):
    """All rounds that are left."""
    exchange = simulate(clients, own_models, LOCAL, federation, SEED)
    events = list(run_rounds(state, exchange, federation, SEED))
    return [event for event in events if isinstance(event, Round)]


@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_run_that_is_saved_and_restored_ends_in_the_same_bits(
    name, clients, start, same_bits, tmp_path
):
    federation = FEDERATIONS[name]
    whole_own = {}
    whole = finish(start, whole_own, clients, federation)[-1].state

    own = {}
    first = finish(start, own, clients, replace(federation, rounds=1))[-1].state
    save_state(tmp_path, SavedState(first, own, "f" * 64))
    restored = load_state(tmp_path)
    assert restored.state.round_number == 1
    rest = finish(restored.state, restored.own_models, clients, federation)
    assert len(rest) == 2
    assert same_bits(rest[-1].state.model, whole.model)
    assert restored.own_models.keys() == whole_own.keys()
    assert all(same_bits(restored.own_models[key], whole_own[key]) for key in whole_own)


@pytest.mark.parametrize("name", FEDERATIONS)
def test_the_order_of_the_clients_does_not_matter(name, clients, start, same_bits):
    federation = replace(FEDERATIONS[name], rounds=2)
    own, reversed_own = {}, {}
    forward = finish(start, own, clients, federation)
    backward = finish(start, reversed_own, clients[::-1], federation)
    assert same_bits(forward[-1].state.model, backward[-1].state.model)
    assert all(same_bits(own[key], reversed_own[key]) for key in own)
    for left, right in zip(forward, backward, strict=True):
        assert [update.client_id for update in left.updates] == ["a", "b", "c"]
        assert [update.loss for update in left.updates] == [u.loss for u in right.updates]


def test_what_a_client_sends_does_not_depend_on_the_other_clients(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=1)
    (together,) = finish(start, {}, clients, federation)
    for place, client in enumerate(clients):
        (alone,) = finish(start, {}, [client], federation)
        left, right = together.updates[place], alone.updates[0]
        assert left.loss == right.loss
        assert torch.equal(left.centroids, right.centroids)
        assert all(torch.equal(left.head[name], right.head[name]) for name in left.head)


def test_results_do_not_depend_on_the_global_random_state(clients, start, same_bits):
    finals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        finals.append(finish(start, {}, clients, FEDERATIONS["fedcc-kmeans"])[-1].state)
    assert same_bits(finals[0].model, finals[1].model)


def test_every_update_comes_before_the_round_it_belongs_to(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=2)
    exchange = simulate(clients, {}, LOCAL, federation, SEED)
    events = list(run_rounds(start, exchange, federation, SEED))
    kinds = [type(event) for event in events]
    assert kinds == ([ClientUpdate] * 3 + [Round]) * 2
    assert [event.state.round_number for event in events[3::4]] == [1, 2]
    assert events[3].updates == tuple(events[:3])


def test_a_finished_run_has_no_round_left(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=1)
    (only,) = finish(start, {}, clients, federation)
    assert finish(only.state, {}, clients, federation) == []


def test_clients_weigh_in_with_all_their_images(clients, start):
    (only,) = finish(start, {}, clients, replace(FEDERATIONS["fedavg"], rounds=1))
    assert [update.num_images for update in only.updates] == [5, 7, 3]


@pytest.mark.parametrize(
    ("name", "head", "centroids"),
    [
        ("fedavg", True, True),
        ("own heads", False, True),
        ("own centroids", True, False),
        ("local", False, False),
    ],
)
def test_only_what_is_aggregated_leaves_the_client(name, head, centroids, clients, start):
    update, _ = train_locally(start, None, clients[0], LOCAL, FEDERATIONS[name], SEED)
    assert (update.head is not None, update.centroids is not None) == (head, centroids)


@pytest.mark.parametrize("name", ["own heads", "own centroids", "local"])
def test_what_is_not_aggregated_goes_on_from_the_clients_own_model(name, clients, start, same_bits):
    federation = FEDERATIONS[name]
    _, own = train_locally(start, None, clients[0], LOCAL, federation, SEED)
    moved = replace(start, round_number=1)
    _, found = train_locally(moved, own, clients[0], LOCAL, federation, SEED)
    mixed = replace(
        start.model,
        **({} if federation.aggregate_heads else {"head": own.head}),
        **({} if federation.aggregate_centroids else {"centroids": own.centroids}),
    )
    expected_start = replace(moved, model=mixed)
    _, expected = train_locally(expected_start, None, clients[0], LOCAL, federation, SEED)
    assert same_bits(found, expected)


def test_own_models_stay_empty_where_all_is_aggregated(clients, start):
    own = {}
    finish(start, own, clients, replace(FEDERATIONS["fedavg"], rounds=1))
    assert own == {}


def test_local_clients_never_learn_from_each_other(clients, start, same_bits):
    together, alone = {}, {}
    finish(start, together, clients, FEDERATIONS["local"])
    finish(start, alone, clients[:1], FEDERATIONS["local"])
    assert same_bits(together["a"], alone["a"])
    assert not same_bits(together["a"], together["b"])


def test_every_client_draws_anew_in_every_round(clients, start):
    def centroids(client_id, round_number, seed):
        client = Client(client_id, clients[0].features, clients[0].cache)
        state = replace(start, round_number=round_number)
        update, _ = train_locally(state, None, client, LOCAL, FEDERATIONS["fedavg"], seed)
        return update.centroids

    drawn = [centroids("a", 0, 3), centroids("a", 1, 3), centroids("z", 0, 3), centroids("a", 0, 4)]
    assert not any(torch.equal(left, right) for left, right in combinations(drawn, 2))


def test_the_first_round_draws_from_round_one_and_not_from_the_hello(clients, start, same_bits):
    client = clients[0]
    _, trained = train_locally(start, None, client, LOCAL, FEDERATIONS["fedavg"], SEED)
    pooled = torch.from_numpy(client.features.pooled)
    nearest = nearest_neighbors(pooled - start.plan.mean_feature, LOCAL.neighbors)
    generator = round_generator(SEED, 1, "a")
    expected, _ = train(start.model, client.features, nearest, start.plan, LOCAL, generator)
    assert same_bits(trained, expected)


def test_initial_centroids_are_standard_normal_and_seeded(start):
    model = ModelConfig(num_clusters=100, code_dim=70)
    drawn = initial_state(model, start.plan, 0).model.centroids
    assert drawn.shape == (100, 70)
    assert abs(float(drawn.mean())) < 0.05
    assert abs(float(drawn.std()) - 1) < 0.05
    assert torch.equal(drawn, initial_state(model, start.plan, 0).model.centroids)
    assert not torch.equal(drawn, initial_state(model, start.plan, 1).model.centroids)


def test_the_initial_head_fits_the_features_and_the_code(start):
    assert start.model.head["linear.weight"].shape == (4, 5)
    assert start.round_number == 0
