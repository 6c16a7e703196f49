from dataclasses import replace
from itertools import combinations
from types import MappingProxyType

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.randomness import round_generator
from fusseg.features.neighbors import nearest_neighbors
from fusseg.federation import simulation
from fusseg.federation.answer import answer
from fusseg.federation.checks import check_plausible
from fusseg.federation.hello import agree, say_hello
from fusseg.federation.parts import ClientFacts, take_head
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import sent_parts
from fusseg.federation.rounds import (
    Round,
    draw_participants,
    initial_state,
    num_updates,
    run_rounds,
)
from fusseg.federation.simulation import simulate
from fusseg.federation.state import Client, ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.runs.saved_state import SavedState, load_state, save_state
from fusseg.segmentation.training import Trainee, train, train_together

SEED = 3
STEGO = {"positions": 9, "shift_quantiles": (0.75, 0.80, 0.95)}
LOCAL = LocalConfig(steps=2, batch_size=4, tables={"stego": STEGO})


def settle(init="random", merging=MappingProxyType({}), **federation):
    return resolve(
        Config(
            seed=SEED,
            model=ModelConfig(init=init, init_steps=2, num_clusters=3, code_dim=4, **merging),
            local=LOCAL,
            federation=FederationConfig(**federation),
        )
    )


ADAM = {"server_optimizer": "adam", "server_learning_rate": 0.01}
FEDERATIONS = {
    name: settle(rounds=3, **settings)
    for name, settings in {
        "fedavg": {"strategy": "fedavg"},
        "fedcc-kmeans": {"strategy": "fedcc-kmeans"},
        "fedcc-maximin": {"strategy": "fedcc-maximin", "distance": "euclidean"},
        "own heads": {"strategy": "fedcc-kmeans", "aggregate_heads": False},
        "own centroids": {"strategy": "fedavg", "aggregate_centroids": False},
        "local": {"strategy": "local"},
        "consensus": {"strategy": "consensus", "lloyd_rounds": 2},
        "lloyd": {"strategy": "lloyd", "positions_per_image": 5},
        "momentum": {"strategy": "lloyd", "server_optimizer": "momentum", "lloyd_rounds": 1},
        "adam": {"strategy": "fedavg", "wire": "bfloat16", **ADAM},
        "pca": {"strategy": "pca", "init": "pca", "lloyd_rounds": 3},
        "from pca": {"strategy": "fedcc-kmeans", "init": "pca"},
        "own heads, from pca": {"strategy": "fedavg", "aggregate_heads": False, "init": "pca"},
        "merged": {"strategy": "fedcc-kmeans", "init": "pca", "merging": {"num_regions": 2}},
        "merged by borders": {
            "strategy": "lloyd",
            "lloyd_rounds": 1,
            "merging": {"num_regions": "auto", "merge_by": "borders"},
        },
        "local, from pca": {"strategy": "local", "init": "pca"},
        "local, finished": {"strategy": "local", "lloyd_rounds": 2},
        "own heads, finished": {"strategy": "fedavg", "aggregate_heads": False, "lloyd_rounds": 2},
        "own centroids, finished": {
            "strategy": "fedavg",
            "aggregate_centroids": False,
            "lloyd_rounds": 2,
        },
    }.items()
}


def with_moon(protocol, fedprox_weight=0.001):
    """The same rules, held near the heads received and kept."""
    local = replace(protocol.local, fedmoon_weight=1.0, fedprox_weight=fedprox_weight)
    return replace(protocol, local=local)


@pytest.fixture
def clients(random_features, tmp_path):
    sizes = {"a": 5, "b": 7, "c": 3}
    return [
        Client(name, random_features(seed, num_images=size, name=name), tmp_path)
        for seed, (name, size) in enumerate(sizes.items())
    ]


@pytest.fixture
def start(clients):
    protocol = FEDERATIONS["fedavg"]
    hellos = [say_hello(client, protocol, center=True) for client in clients]
    plan = agree(hellos, protocol, clients[0].features.fingerprint, center=True)
    return initial_state(protocol, plan)


def events_of(state, memories, clients, protocol, **more):
    exchange = simulate(clients, memories, protocol, **more)
    return run_rounds(state, exchange, protocol)


def begin(start, protocol):
    """The state before the first round, which is round 0 if the start is computed."""
    return replace(start, round_number=protocol.first_round - 1)


def finish(start, memories, clients, protocol, **more):
    """All rounds from a start."""
    events = list(events_of(begin(start, protocol), memories, clients, protocol, **more))
    return [event for event in events if isinstance(event, Round)]


def train_one(state, memory, client, protocol):
    """What one client sends after training, and what it keeps."""
    task = protocol.tasks(state.round_number + 1)[0]
    kept = KeptCodes(protocol.positions_per_image, protocol.seed)
    found = answer(state, task, memory, client, protocol, kept)
    return found.update, found.memory


@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_run_that_is_saved_and_restored_ends_in_the_same_bits(
    name, clients, start, same_bits, tmp_path
):
    check_every_restart(FEDERATIONS[name], clients, start, same_bits, tmp_path)


@pytest.mark.parametrize("name", ["fedavg", "consensus", "lloyd"])
def test_a_run_with_regularizers_is_restored_to_the_same_bits(
    name, clients, start, same_bits, tmp_path
):
    check_every_restart(with_moon(FEDERATIONS[name]), clients, start, same_bits, tmp_path)


def check_every_restart(protocol, clients, start, same_bits, tmp_path):
    """Stop after each round in turn, save, load and go on."""
    whole_own, own = {}, {}
    whole = finish(start, whole_own, clients, protocol)
    assert len(whole) == protocol.num_rounds - protocol.first_round + 1
    state = begin(start, protocol)
    for number, expected in enumerate(whole, start=protocol.first_round):
        events = events_of(state, own, clients, protocol)
        state = next(event for event in events if isinstance(event, Round)).state
        assert state.round_number == number
        assert same_bits(state.model, expected.state.model)
        save_state(tmp_path, SavedState(state, own, "f" * 64))
        restored = load_state(tmp_path)
        state, own = restored.state, restored.memories
    assert own.keys() == whole_own.keys()
    assert all(same_bits(own[key].model, whole_own[key].model) for key in own)


@pytest.mark.parametrize(
    "strategy", ["fedavg", "fedcc-kmeans", "fedcc-maximin", "consensus", "lloyd"]
)
def test_an_optimizer_of_the_server_moves_the_heads_of_every_strategy(
    strategy, clients, start, same_bits
):
    rules = {"strategy": strategy, "rounds": 2, "lloyd_rounds": 1, "server_learning_rate": 0.5}
    plain = finish(start, {}, clients, settle(**rules))
    moved = finish(start, {}, clients, settle(server_optimizer="momentum", **rules))
    # The first step has nothing to remember.
    assert same_bits(plain[0].state.model, moved[0].state.model)
    velocity = moved[0].state.optimizer["velocity"]
    for name, weight in start.model.head.items():
        step = moved[0].state.model.head[name].double() - weight.double()
        assert torch.allclose(0.5 * velocity[name], step, atol=1e-7)
    assert not same_bits(plain[1].state.model, moved[1].state.model)
    # The finish moves centroids alone.
    assert moved[2].state.optimizer is moved[1].state.optimizer
    assert plain[2].state.optimizer == {}


@pytest.mark.parametrize("name", FEDERATIONS)
def test_the_order_of_the_clients_does_not_matter(name, clients, start, same_bits):
    federation = replace(FEDERATIONS[name], rounds=2)
    own, reversed_own = {}, {}
    forward = finish(start, own, clients, federation)
    backward = finish(start, reversed_own, clients[::-1], federation)
    assert same_bits(forward[-1].state.model, backward[-1].state.model)
    assert all(same_bits(own[key].model, reversed_own[key].model) for key in own)
    for left, right in zip(forward, backward, strict=True):
        assert [update.client_id for update in left.updates] == ["a", "b", "c"]
        assert [update.loss for update in left.updates] == [u.loss for u in right.updates]


def test_training_on_from_federated_pca_moves_every_parameter(clients, start):
    pca = finish(start, {}, clients, FEDERATIONS["pca"])[-1].state
    silent = [name for name, part in pca.model.head.items() if not bool(part.any())]
    assert silent == ["output.weight", "output.bias"]
    for name in ("hidden.weight", "hidden.bias"):
        assert torch.equal(pca.model.head[name], start.model.head[name])
    again = replace(start, model=pca.model)
    trained = finish(again, {}, clients, FEDERATIONS["fedavg"])[-1].state.model.head
    for name, part in trained.items():
        moved = (part != pca.model.head[name]).float().mean()
        assert float(moved) > 0.9, name


def sent_by(start, memories, clients, protocol):
    """Every update as the server got it; rounds keep no head."""
    events = events_of(start, memories, clients, protocol)
    return [event for event in events if isinstance(event, ClientUpdate)]


def test_what_a_client_sends_does_not_depend_on_the_other_clients(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=1)
    together = sent_by(start, {}, clients, federation)
    for left, client in zip(together, clients, strict=True):
        (right,) = sent_by(start, {}, [client], federation)
        assert left.loss == right.loss
        assert left.parts.keys() == right.parts.keys()
        assert all(torch.equal(left.parts[name], right.parts[name]) for name in left.parts)


def test_results_do_not_depend_on_the_global_random_state(clients, start, same_bits):
    finals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        finals.append(finish(start, {}, clients, FEDERATIONS["fedcc-kmeans"])[-1].state)
    assert same_bits(finals[0].model, finals[1].model)


def test_every_update_comes_before_the_round_it_belongs_to(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=2)
    events = list(events_of(start, {}, clients, federation))
    kinds = [type(event) for event in events]
    assert kinds == ([ClientUpdate] * 3 + [Round]) * 2
    assert [event.state.round_number for event in events[3::4]] == [1, 2]
    for kept, sent in zip(events[3].updates, events[:3], strict=True):
        assert (kept.client_id, kept.num_images, kept.loss) == (
            sent.client_id,
            sent.num_images,
            sent.loss,
        )
        assert torch.equal(kept.parts["centroids"], sent.parts["centroids"])


def test_a_finished_run_has_no_round_left(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=1)
    (only,) = finish(start, {}, clients, federation)
    assert list(events_of(only.state, {}, clients, federation)) == []


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
    update, _ = train_one(start, None, clients[0], FEDERATIONS[name])
    names = {f"head.{part}" for part in start.model.head} if head else set()
    assert update.parts.keys() == names | ({"centroids"} if centroids else set())


@pytest.mark.parametrize("name", ["own heads", "own centroids", "local"])
def test_what_is_not_aggregated_goes_on_from_the_clients_own_model(name, clients, start, same_bits):
    protocol = FEDERATIONS[name]
    _, own = train_one(start, None, clients[0], protocol)
    moved = replace(start, round_number=1)
    _, found = train_one(moved, own, clients[0], protocol)
    mixed = replace(
        start.model,
        **({} if protocol.aggregate_heads else {"head": own.model.head}),
        **({} if protocol.aggregate_centroids else {"centroids": own.model.centroids}),
    )
    expected_start = replace(moved, model=mixed)
    _, expected = train_one(expected_start, None, clients[0], protocol)
    assert same_bits(found.model, expected.model)


@pytest.mark.parametrize("strategy", ["fedcc-kmeans", "fedcc-maximin", "fedavg"])
def test_weights_beside_centroids_alone_change_averages_and_no_pool(
    strategy, clients, start, same_bits
):
    ends = []
    for weights in ("images", "equal"):
        own = {}
        protocol = settle(strategy=strategy, rounds=2, aggregate_heads=False, weights=weights)
        rounds = finish(start, own, clients, protocol)
        ends.append([rounds[-1].state.model, *(own[name].model for name in sorted(own))])
    alike = [same_bits(one, other) for one, other in zip(*ends, strict=True)]
    assert len(alike) == 4
    assert alike == [strategy != "fedavg"] * 4


def test_own_models_stay_empty_where_all_is_aggregated(clients, start):
    own = {}
    finish(start, own, clients, replace(FEDERATIONS["fedavg"], rounds=1))
    assert own == {}


def test_local_clients_never_learn_from_each_other(clients, start, same_bits):
    together, alone = {}, {}
    finish(start, together, clients, FEDERATIONS["local"])
    finish(start, alone, clients[:1], FEDERATIONS["local"])
    assert same_bits(together["a"].model, alone["a"].model)
    assert not same_bits(together["a"].model, together["b"].model)


def test_every_client_draws_anew_in_every_round(clients, start):
    def centroids(client_id, round_number, seed):
        client = Client(client_id, clients[0].features, clients[0].cache)
        state = replace(start, round_number=round_number)
        update, _ = train_one(state, None, client, replace(FEDERATIONS["fedavg"], seed=seed))
        return update.parts["centroids"]

    drawn = [centroids("a", 0, 3), centroids("a", 1, 3), centroids("z", 0, 3), centroids("a", 0, 4)]
    assert not any(torch.equal(left, right) for left, right in combinations(drawn, 2))


def test_the_first_round_draws_from_round_one_and_not_from_the_hello(clients, start, same_bits):
    client, protocol = clients[0], FEDERATIONS["fedavg"]
    _, trained = train_one(start, None, client, protocol)
    pooled = torch.from_numpy(client.features.pooled)
    neighbors = protocol.local.settings.neighbors
    nearest = nearest_neighbors(pooled - start.plan.mean_feature, neighbors)
    generator = round_generator(SEED, 1, "a")
    trainee = Trainee(start.model, client.features, nearest, generator)
    expected = train(trainee, start.plan, protocol.local)
    assert same_bits(trained.model, expected.model)


def test_initial_centroids_are_standard_normal_and_seeded(start):
    protocol = replace(FEDERATIONS["fedavg"], num_clusters=100, code_dim=70, seed=0)
    drawn = initial_state(protocol, start.plan).model.centroids
    assert drawn.shape == (100, 70)
    assert abs(float(drawn.mean())) < 0.05
    assert abs(float(drawn.std()) - 1) < 0.05
    other = replace(protocol, seed=1)
    assert torch.equal(drawn, initial_state(protocol, start.plan).model.centroids)
    assert not torch.equal(drawn, initial_state(other, start.plan).model.centroids)


def test_the_initial_head_fits_the_features_and_the_code(start):
    assert start.model.head["linear.weight"].shape == (4, 5)
    assert start.round_number == 0


def test_fedmoon_pulls_from_round_two_on(clients, start):
    """A frozen pair of equal heads would be constant ln 2, with no gradient at all."""
    federation = FEDERATIONS["fedavg"]
    moon = with_moon(federation, fedprox_weight=0.0)
    pulled = sent_by(start, {}, clients, moon)[::3]
    plain = sent_by(start, {}, clients, federation)[::3]
    assert {update.client_id for update in (*pulled, *plain)} == {"a"}
    assert pulled[0].loss == plain[0].loss
    assert pulled[1].loss != plain[1].loss
    assert not torch.equal(
        pulled[1].parts["head.linear.weight"], plain[1].parts["head.linear.weight"]
    )


def test_fedmoon_remembers_the_clients_own_head_and_not_the_average(clients, start, same_bits):
    own = {}
    moon = with_moon(replace(FEDERATIONS["fedavg"], rounds=1), fedprox_weight=0.0)
    updates = sent_by(start, own, clients, moon)
    assert sorted(own) == ["a", "b", "c"]
    for update in updates:
        kept, sent = own[update.client_id].model.head, take_head(update.parts)
        assert kept.keys() == sent.keys()
        assert all(torch.equal(kept[name], sent[name]) for name in kept)
    (only,) = finish(start, {}, clients, moon)
    averaged = only.state.model.head["linear.weight"]
    assert not torch.equal(own["a"].model.head["linear.weight"], averaged)


def test_the_finish_leaves_the_head_and_sends_sums_only(clients, start):
    federation = replace(FEDERATIONS["fedavg"], rounds=1, lloyd_rounds=2)
    trained, _, last = finish(start, {}, clients, federation)
    assert last.state.model.head is trained.state.model.head
    assert not torch.equal(last.state.model.centroids, trained.state.model.centroids)
    assert {name for update in last.updates for name in update.parts} == {"sums", "counts"}


@pytest.mark.parametrize("name", ["local, finished", "own heads, finished"])
def test_a_client_with_its_own_head_finishes_alone(name, clients, start):
    own = {}
    rounds = finish(start, own, clients, FEDERATIONS[name])
    assert [update.parts for update in rounds[-1].updates] == [{}, {}, {}]
    assert torch.equal(rounds[-1].state.model.centroids, rounds[2].state.model.centroids)
    lengths = torch.cat([memory.model.centroids.norm(dim=1) for memory in own.values()])
    assert torch.allclose(lengths, torch.ones_like(lengths))
    assert not torch.equal(own["a"].model.centroids, own["b"].model.centroids)


@pytest.mark.parametrize("name", ["lloyd", "pca"])
def test_no_single_centroid_is_sent(name, clients, start):
    for round_ in finish(start, {}, clients, FEDERATIONS[name]):
        for exchange in round_.exchanges:
            assert all("centroids" not in update.parts for update in exchange.updates)


@pytest.mark.parametrize("name", FEDERATIONS)
@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_what_honest_clients_send_is_plausible(name, wire, clients, start):
    federation = replace(FEDERATIONS[name], wire=wire)
    facts = {client.client_id: ClientFacts(len(client.features), 12) for client in clients}
    exchange = simulate(clients, {}, federation)
    parts, checked = {}, 0

    def watched(state, task):
        nonlocal parts
        parts = sent_parts(task, state, federation)
        return exchange(state, task)

    for event in run_rounds(begin(start, federation), watched, federation):
        if isinstance(event, ClientUpdate):
            check_plausible(event, parts, facts[event.client_id])
            checked += 1
    first, last = federation.first_round, federation.num_rounds
    assert checked == num_updates(first, last, 3, federation)


@pytest.mark.parametrize("name", [name for name in FEDERATIONS if not name.startswith("local")])
def test_a_run_with_drawn_clients_is_restored_to_the_same_bits(
    name, clients, start, same_bits, tmp_path
):
    federation = replace(FEDERATIONS[name], clients_per_round=2)
    check_every_restart(federation, clients, start, same_bits, tmp_path)


@pytest.mark.parametrize("name", ["fedcc-kmeans", "lloyd", "pca", "consensus"])
def test_the_clients_of_a_round_are_those_drawn_in_all_of_its_exchanges(name, clients, start):
    federation = replace(FEDERATIONS[name], clients_per_round=2)
    rounds = finish(start, {}, clients, federation)
    taking_part = []
    for number, done in enumerate(rounds, start=federation.first_round):
        drawn = list(draw_participants("abc", number, federation))
        for exchange in done.exchanges:
            assert [update.client_id for update in exchange.updates] == drawn
        taking_part.append(tuple(drawn))
    assert len(set(taking_part)) > 1


def test_who_is_not_drawn_has_no_part_in_the_round(clients, start, same_bits):
    federation = replace(FEDERATIONS["fedcc-kmeans"], rounds=1, clients_per_round=2)
    drawn = draw_participants("abc", 1, federation)
    chosen = [client for client in clients if client.client_id in drawn]
    whole = replace(federation, clients_per_round=0)
    (sampled,) = finish(start, {}, clients, federation)
    (expected,) = finish(start, {}, chosen, whole)
    assert same_bits(sampled.state.model, expected.state.model)
    weights = {update.client_id: update.num_images for update in sampled.updates}
    assert weights == {client.client_id: len(client.features) for client in chosen}


@pytest.mark.parametrize("rules", [FEDERATIONS["own heads"], with_moon(FEDERATIONS["fedavg"])])
def test_own_models_of_clients_that_are_not_drawn_stay_as_they_were(rules, clients, start):
    federation = replace(rules, rounds=6, clients_per_round=1)
    own, seen = {}, {}
    for event in events_of(start, own, clients, federation):
        if isinstance(event, ClientUpdate):
            continue
        (drawn,) = (update.client_id for update in event.updates)
        assert all(own[name] is model for name, model in seen.items() if name != drawn)
        assert own[drawn] is not seen.get(drawn)
        seen = dict(own)
    assert len(seen) > 1


@pytest.mark.parametrize("moon", [False, True])
@pytest.mark.parametrize("name", ["fedavg", "fedcc-kmeans"])
def test_clients_side_by_side_give_the_run_of_one_by_one(name, moon, clients, start, monkeypatch):
    sizes = []

    def counted(trainees, *rest):
        sizes.append(len(trainees))
        return train_together(trainees, *rest)

    monkeypatch.setattr(simulation, "train_together", counted)
    federation = replace(FEDERATIONS[name], clients_per_round=2 if name == "fedavg" else 0)
    federation = with_moon(federation) if moon else federation
    own, own_together = {}, {}
    events = zip(
        finish(start, own, clients, federation),
        finish(start, own_together, clients, federation, clients_at_once=2),
        strict=True,
    )
    for expected, found in events:
        ids = [update.client_id for update in expected.updates]
        assert [update.client_id for update in found.updates] == ids
        for left, right in zip(found.updates, expected.updates, strict=True):
            assert left.loss == pytest.approx(right.loss, abs=1e-4)
        for part in expected.state.model.head:
            torch.testing.assert_close(
                found.state.model.head[part], expected.state.model.head[part], rtol=0, atol=1e-4
            )
    assert own_together.keys() == own.keys()
    assert set(sizes) <= {1, 2}
    assert 2 in sizes


def test_bfloat16_changes_a_run_by_little(clients, start):
    exact = finish(start, {}, clients, FEDERATIONS["fedavg"])[-1].state.model
    halved = replace(FEDERATIONS["fedavg"], wire="bfloat16")
    rounded = finish(start, {}, clients, halved)[-1].state.model
    moved = torch.cat([(exact.head[n] - start.model.head[n]).flatten() for n in exact.head])
    error = torch.cat([(exact.head[n] - rounded.head[n]).flatten() for n in exact.head])
    assert 0 < float(error.norm()) < 0.1 * float(moved.norm())
