from dataclasses import replace
from itertools import combinations

import pytest
import torch

from fusseg.config import FederationConfig, LocalConfig, ModelConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.federation.bounds import ClientFacts, check_plausible
from fusseg.federation.client import Client, train_locally
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.rounds import Round, initial_state, run_rounds
from fusseg.federation.schedule import num_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve_federation
from fusseg.randomness import round_generator
from fusseg.runs import SavedState, load_state, save_state
from fusseg.segmentation.training import train

SEED = 3
LOCAL = LocalConfig(steps=2, batch_size=4, positions=9, shift_quantiles=(0.75, 0.80, 0.95))
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
        "consensus": {"strategy": "consensus", "lloyd_rounds": 2},
        "lloyd": {"strategy": "lloyd", "positions_per_image": 5},
        "pca": {"strategy": "pca", "lloyd_rounds": 3},
        "local, finished": {"strategy": "local", "lloyd_rounds": 2},
        "own heads, finished": {"strategy": "fedavg", "aggregate_heads": False, "lloyd_rounds": 2},
        "own centroids, finished": {
            "strategy": "fedavg",
            "aggregate_centroids": False,
            "lloyd_rounds": 2,
        },
    }.items()
}
MOON = replace(LOCAL, fedmoon_weight=1.0, fedprox_weight=0.001)


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


def finish(state, own_models, clients, federation, local=LOCAL):
    """All rounds that are left."""
    exchange = simulate(clients, own_models, local, federation, SEED)
    events = list(run_rounds(state, exchange, federation, SEED))
    return [event for event in events if isinstance(event, Round)]


@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_run_that_is_saved_and_restored_ends_in_the_same_bits(
    name, clients, start, same_bits, tmp_path
):
    check_every_restart(FEDERATIONS[name], LOCAL, clients, start, same_bits, tmp_path)


@pytest.mark.parametrize("name", ["fedavg", "consensus", "lloyd"])
def test_a_run_with_regularizers_is_restored_to_the_same_bits(
    name, clients, start, same_bits, tmp_path
):
    check_every_restart(FEDERATIONS[name], MOON, clients, start, same_bits, tmp_path)


def check_every_restart(federation, local, clients, start, same_bits, tmp_path):
    """Stop after each round in turn, save, load and go on."""
    whole_own, own = {}, {}
    whole = finish(start, whole_own, clients, federation, local)
    assert len(whole) == num_rounds(federation)
    state = start
    for number in range(1, len(whole) + 1):
        exchange = simulate(clients, own, local, federation, SEED)
        events = run_rounds(state, exchange, federation, SEED)
        state = next(event for event in events if isinstance(event, Round)).state
        assert state.round_number == number
        assert same_bits(state.model, whole[number - 1].state.model)
        save_state(tmp_path, SavedState(state, own, "f" * 64))
        restored = load_state(tmp_path)
        state, own = restored.state, restored.own_models
    assert own.keys() == whole_own.keys()
    assert all(same_bits(own[key], whole_own[key]) for key in own)


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


def test_fedmoon_pulls_from_round_two_on(clients, start):
    """A frozen pair of equal heads would be constant ln 2, with no gradient at all."""
    federation = FEDERATIONS["fedavg"]
    moon = replace(LOCAL, fedmoon_weight=1.0)
    own = {}
    (first, second, _) = finish(start, own, clients, federation, moon)
    plain_first, plain_second, _ = finish(start, {}, clients, federation)
    assert first.updates[0].loss == plain_first.updates[0].loss
    assert second.updates[0].loss != plain_second.updates[0].loss
    assert not torch.equal(
        second.updates[0].head["linear.weight"], plain_second.updates[0].head["linear.weight"]
    )


def test_fedmoon_remembers_the_clients_own_head_and_not_the_average(clients, start, same_bits):
    own = {}
    moon = replace(LOCAL, fedmoon_weight=1.0)
    federation = replace(FEDERATIONS["fedavg"], rounds=1)
    (only,) = finish(start, own, clients, federation, moon)
    assert sorted(own) == ["a", "b", "c"]
    for update in only.updates:
        kept = own[update.client_id].head
        assert all(torch.equal(kept[name], update.head[name]) for name in kept)
    assert not torch.equal(own["a"].head["linear.weight"], only.state.model.head["linear.weight"])


def test_the_finish_leaves_the_head_and_sends_sums_only(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=1, lloyd_rounds=2)
    trained, _, last = finish(start, {}, clients, federation)
    assert last.state.model.head is trained.state.model.head
    assert not torch.equal(last.state.model.centroids, trained.state.model.centroids)
    assert {name for update in last.updates for name in update.tensors()} == {"sums", "counts"}


@pytest.mark.parametrize("name", ["local, finished", "own heads, finished"])
def test_a_client_with_its_own_head_finishes_alone(name, clients, start):
    own = {}
    rounds = finish(start, own, clients, FEDERATIONS[name])
    assert [update.tensors() for update in rounds[-1].updates] == [{}, {}, {}]
    assert torch.equal(rounds[-1].state.model.centroids, rounds[2].state.model.centroids)
    lengths = torch.cat([model.centroids.norm(dim=1) for model in own.values()])
    assert torch.allclose(lengths, torch.ones_like(lengths))
    assert not torch.equal(own["a"].centroids, own["b"].centroids)


@pytest.mark.parametrize("name", ["lloyd", "pca"])
def test_no_single_centroid_is_sent(name, clients, start):
    for round_ in finish(start, {}, clients, FEDERATIONS[name]):
        for exchange in round_.exchanges:
            assert all(update.centroids is None for update in exchange.updates)


@pytest.mark.parametrize("name", FEDERATIONS)
@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_what_honest_clients_send_is_plausible(name, wire, clients, start):
    federation = replace(FEDERATIONS[name], wire=wire)
    rounds = finish(start, {}, clients, federation)
    facts = {client.client_id: ClientFacts(len(client.features), 12) for client in clients}
    for before, done in zip([start, *(one.state for one in rounds)], rounds, strict=False):
        for update in done.updates:
            check_plausible(before, update, facts[update.client_id], LOCAL, federation)


def test_bfloat16_changes_a_run_by_little(clients, start):
    exact = finish(start, {}, clients, FEDERATIONS["fedavg"])[-1].state.model
    halved = replace(FEDERATIONS["fedavg"], wire="bfloat16")
    rounded = finish(start, {}, clients, halved)[-1].state.model
    moved = torch.cat([(exact.head[n] - start.model.head[n]).flatten() for n in exact.head])
    error = torch.cat([(exact.head[n] - rounded.head[n]).flatten() for n in exact.head])
    assert 0 < float(error.norm()) < 0.1 * float(moved.norm())
