"""The server's half of an exchange: updates are folded as they come, and let go."""

import re
from dataclasses import replace
from itertools import permutations
from weakref import ref

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.core.errors import FederationError
from fusseg.federation.gathering import Gathering, aggregate
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.moments import moments_task, sum_moments
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Task
from fusseg.federation.rounds import Round, run_rounds
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import bytes_up, num_bytes
from fusseg.segmentation.head import initial_head

WEIGHTS = 1237


def settle(**federation):
    """Rules for two centroids of three channels."""
    model = ModelConfig(init="random", num_clusters=2, code_dim=3)
    return resolve(Config(model=model, federation=FederationConfig(**federation)))


FEDAVG = settle(strategy="fedavg")
(TRAIN,) = FEDAVG.tasks(1)


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.zeros(WEIGHTS)}, torch.zeros(2, 3))


def make_updates(num_clients):
    for number in range(num_clients):
        generator = torch.Generator().manual_seed(number)
        parts = {
            "head.w": torch.randn(WEIGHTS, generator=generator),
            "centroids": torch.randn(2, 3, generator=generator),
        }
        yield ClientUpdate(f"client-{number:02d}", number + 1, 0.5, parts)


def sums_of_two():
    return {"sums": torch.ones(2, 3).double(), "counts": torch.ones(2, dtype=torch.int64)}


@pytest.mark.parametrize("strategy", ["fedavg", "fedcc-kmeans", "fedcc-maximin", "lloyd"])
def test_the_server_never_holds_the_heads_of_all_clients(strategy, state):
    protocol = settle(strategy=strategy, rounds=1)
    heads, alive = [], []

    def exchange(_state, task):
        for update in make_updates(50):
            if task is LLOYD_STEP:
                yield replace(update, loss=None, parts=sums_of_two())
                continue
            heads.append(ref(update.parts["head.w"]))
            alive.append(sum(head() is not None for head in heads))
            names = ["head.w"] if strategy == "lloyd" else list(update.parts)
            yield replace(update, parts={name: update.parts[name] for name in names})

    for event in run_rounds(state, exchange, protocol):
        last = event
    assert isinstance(last, Round)
    assert len(last.updates) == 50
    assert len(alive) == 50
    assert max(alive) <= 3
    assert not any(head() is not None for head in heads)


def test_a_round_keeps_what_a_head_weighs_without_its_numbers(state):
    gathering = Gathering(state, FEDAVG, TRAIN)
    (update,) = make_updates(1)
    gathering.add(update)
    (kept,) = gathering.updates
    assert kept.parts["head.w"].device.type == "meta"
    assert num_bytes(kept.parts["head.w"]) == 4 * WEIGHTS
    assert bytes_up(kept) == bytes_up(update)
    assert kept.parts.keys() == update.parts.keys()
    assert kept.parts["centroids"] is update.parts["centroids"]
    assert (kept.client_id, kept.num_images, kept.loss) == ("client-00", 1, 0.5)


@pytest.mark.parametrize("weights", ["images", "equal"])
def test_arrival_in_any_order_gives_the_same_bits(weights, state, same_bits, seeded):
    protocol = replace(FEDAVG, weights=weights, centroid_weights=weights)
    updates = list(make_updates(5))
    models = [
        aggregate(state, order, protocol, TRAIN, seeded(0)).model for order in permutations(updates)
    ]
    assert len(models) == 120
    assert all(same_bits(models[0], model) for model in models[1:])


@pytest.mark.parametrize("task", [LLOYD_STEP, moments_task(2)], ids=["lloyd", "moments"])
def test_sums_in_any_order_give_the_same_bits(task, make_state, same_bits, seeded):
    features = torch.randn(40, 7, generator=seeded(1)) + 3
    start = make_state(initial_head(7, 3, seeded(2)), torch.zeros(2, 3), dim=7)
    updates = []
    for number, part in enumerate(features.split(8)):
        parts = vars(sum_moments([part], 7))
        if task is LLOYD_STEP:
            parts = {"sums": part[:2, :3].double() / 7, "counts": torch.tensor([number, 3])}
        updates.append(ClientUpdate(f"client-{number}", 2, parts=parts))
    models = [
        aggregate(start, order, FEDAVG, task, seeded(0)).model
        for order in (updates, updates[::-1], updates[2:] + updates[:2])
    ]
    assert all(same_bits(models[0], model) for model in models[1:])
    assert bool(models[0].centroids.any())


def test_an_update_that_does_not_fit_is_refused_before_it_is_folded(state, seeded):
    gathering = Gathering(state, FEDAVG, TRAIN)
    good, bad = make_updates(2)
    gathering.add(good)
    bad = replace(bad, parts={**bad.parts, "head.w": torch.full((WEIGHTS,), torch.nan)})
    with pytest.raises(FederationError, match=r"client 'client-01' sent head\.w with values that"):
        gathering.add(bad)
    assert [update.client_id for update in gathering.updates] == ["client-00"]
    merged = gathering.merge(seeded(0))
    assert torch.equal(merged.model.head["w"], good.parts["head.w"])


def exchange_of(seen=None, **parts):
    """An exchange that asks for other parts, and shows what arrived of them."""

    def merge(gathered):
        if seen is not None:
            seen.append(gathered)
        return gathered.state.model

    return Task("test", lambda _state, _protocol: parts, lambda _work: {}, merge)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_what_is_as_long_as_each_client_likes_cannot_be_added_up(reduce, state):
    task = exchange_of(rows=Part((None, 3), torch.float32, reduce))
    with pytest.raises(FederationError, match=r"shape \(None, 3\) .*neither summed nor averaged"):
        Gathering(state, FEDAVG, task)


def test_parts_of_the_clients_own_length_are_kept_client_by_client(state, seeded):
    seen = []
    task = exchange_of(seen, rows=Part((None, 3), torch.float32, "collect", longest=5))
    sent = {"b": torch.full((5, 3), 2.0), "a": torch.full((1, 3), 1.0)}
    updates = [ClientUpdate(name, 2, parts={"rows": rows}) for name, rows in sent.items()]
    aggregate(state, updates, FEDAVG, task, seeded(0))
    first, second = seen[0].collected["rows"]
    assert first is sent["a"]
    assert second is sent["b"]
    assert seen[0].totals == {}


@pytest.mark.parametrize(
    "shape",
    [(6, 3), (0, 3), (2, 4), (2,), (2, 3, 1)],
    ids=["too long", "empty", "wide", "flat", "deep"],
)
def test_parts_of_the_clients_own_length_have_bounds(shape, state):
    task = exchange_of(rows=Part((None, 3), torch.float32, "collect", longest=5))
    gathering = Gathering(state, FEDAVG, task)
    gathering.add(ClientUpdate("a", 2, parts={"rows": torch.zeros(5, 3)}))
    with pytest.raises(FederationError, match=r"'b' sent rows of shape .*expected \(1 to 5, 3\)"):
        gathering.add(ClientUpdate("b", 2, parts={"rows": torch.zeros(shape)}))


def test_each_part_is_reduced_as_it_says_by_the_clients_weights(state, seeded):
    seen = []
    task = exchange_of(
        seen,
        total=Part((2,), torch.float64, "sum"),
        number=Part((), torch.int64, "sum"),
        average=Part((2,), torch.float32, "mean"),
        each=Part((1,), torch.float32, "collect"),
    )
    updates = [
        ClientUpdate(
            name,
            images,
            parts={
                "total": torch.tensor([value, 1.0], dtype=torch.float64),
                "number": torch.tensor(images),
                "average": torch.tensor([value, -value]),
                "each": torch.tensor([value]),
            },
        )
        for name, images, value in (("b", 3, 8.0), ("a", 1, 4.0))
    ]
    aggregate(state, updates, FEDAVG, task, seeded(0))
    (gathered,) = seen
    assert gathered.totals["total"].tolist() == [12.0, 2.0]
    assert gathered.totals["number"].item() == 4
    assert gathered.totals["average"].tolist() == [7.0, -7.0]
    assert gathered.totals["average"].dtype == torch.float32
    assert [one.tolist() for one in gathered.collected["each"]] == [[4.0], [8.0]]
    assert gathered.shares.tolist() == [0.25, 0.75]
    assert gathered.round_number == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: None, "a value of type NoneType; return a Model"),
        (lambda model: replace(model, head={}), "a head of []; return one of"),
        (lambda model: replace(model, head=doubled(model.head)), "float64; return"),
        (lambda model: replace(model, head=unbounded(model.head)), "values that are not finite"),
        (lambda model: replace(model, centroids=model.centroids[1:]), "a tensor of shape"),
        (lambda model: replace(model, centroids=model.centroids / 0), "values that are not finite"),
    ],
    ids=["nothing", "no head", "float64", "no number", "a row less", "no centroid"],
)
def test_what_a_task_of_ones_own_makes_is_checked(change, message, state, seeded):
    parts = {"rows": Part((1,), torch.float32, "sum")}
    asked = exchange_of(**parts)
    task = replace(asked, merge=lambda gathered: change(gathered.state.model))
    sent = [ClientUpdate("a", 2, parts={"rows": torch.ones(1)})]
    with pytest.raises(FederationError, match=re.escape(message)) as raised:
        aggregate(state, sent, FEDAVG, task, seeded(0))
    assert "federation.strategy 'fedavg' returned" in str(raised.value)


def doubled(head):
    return {name: weight.double() for name, weight in head.items()}


def unbounded(head):
    return {name: torch.full_like(weight, float("inf")) for name, weight in head.items()}


def test_a_part_is_of_a_type_that_travels_and_narrow_beside_what_it_started_from():
    with pytest.raises(ValueError, match=r"one of torch.float32.*got torch.int32"):
        Part((2,), torch.int32, "sum")
    with pytest.raises(ValueError, match="give its start"):
        Part((2,), torch.float32, "mean", narrow=True)
