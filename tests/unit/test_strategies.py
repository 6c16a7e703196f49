import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.core.errors import ConfigError, FederationError
from fusseg.federation.gathering import aggregate, client_shares
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.protocol import Strategy
from fusseg.federation.strategies import STRATEGIES, resolve
from fusseg.federation.train_task import each_round, train_task


def settle(**federation):
    """Rules for two centroids of two channels."""
    model = ModelConfig(init="random", num_clusters=2, code_dim=2)
    return resolve(Config(model=model, federation=FederationConfig(**federation)))


def merge(state, updates, protocol, generator):
    """Aggregate what clients trained."""
    (task,) = protocol.tasks(1)
    return aggregate(state, updates, protocol, task, generator)


def without(update, *names):
    """Leave parts of an update out."""
    parts = {name: part for name, part in update.parts.items() if name not in names}
    return replace(update, parts=parts)


def with_part(update, name, tensor):
    return replace(update, parts={**update.parts, name: tensor})


FEDAVG = settle(strategy="fedavg")


@pytest.fixture
def updates(make_update):
    return [
        make_update("a", 1, [0.0, 4.0], [[1.0, 0.0], [0.0, 1.0]]),
        make_update("b", 3, [8.0, 0.0], [[5.0, 0.0], [0.0, -3.0]]),
    ]


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.tensor([7.0, 7.0])}, torch.full((2, 2), 7.0))


def test_fedavg_weighs_clients_by_their_number_of_images(state, updates, seeded):
    merged = merge(state, updates, FEDAVG, seeded(0))
    assert merged.model.head["w"].tolist() == [6.0, 1.0]
    assert merged.model.centroids.tolist() == [[4.0, 0.0], [0.0, -2.0]]
    assert merged.round_number == 0
    assert merged.plan is state.plan


def test_unweighted_clients_count_the_same(state, updates, seeded):
    merged = merge(
        state, updates, replace(FEDAVG, weights="equal", centroid_weights="equal"), seeded(0)
    )
    assert merged.model.head["w"].tolist() == [4.0, 2.0]
    assert merged.model.centroids.tolist() == [[3.0, 0.0], [0.0, -1.0]]


def test_heads_that_stay_with_the_clients_leave_the_global_one(state, updates, seeded):
    protocol = replace(FEDAVG, aggregate_heads=False)
    updates = [without(update, "head.w") for update in updates]
    merged = merge(state, updates, protocol, seeded(0))
    assert merged.model.head["w"].tolist() == [7.0, 7.0]
    assert merged.model.centroids.tolist() == [[4.0, 0.0], [0.0, -2.0]]


def test_centroids_that_stay_with_the_clients_leave_the_global_ones(state, updates, seeded):
    protocol = replace(FEDAVG, aggregate_centroids=False)
    updates = [without(update, "centroids") for update in updates]
    merged = merge(state, updates, protocol, seeded(0))
    assert merged.model.head["w"].tolist() == [6.0, 1.0]
    assert merged.model.centroids.tolist() == [[7.0, 7.0], [7.0, 7.0]]


def test_no_aggregation_changes_nothing_but_the_round(state, updates, seeded, same_bits):
    protocol = settle(strategy="local")
    updates = [without(update, "head.w", "centroids") for update in updates]
    merged = merge(state, updates, protocol, seeded(0))
    assert same_bits(merged.model, state.model)
    assert merged.round_number == 0


@pytest.mark.parametrize("strategy", ["fedcc-kmeans", "fedcc-maximin"])
@pytest.mark.parametrize("weights", ["images", "equal"])
def test_fedcc_averages_heads_like_fedavg_and_pools_centroids_unweighted(
    strategy, weights, state, make_update, seeded
):
    updates = [
        make_update("a", 1, [0.0, 4.0], [[2.0, 0.0], [0.0, 1.0]]),
        make_update("b", 3, [8.0, 0.0], [[0.0, 1.0], [4.0, 0.0]]),
    ]
    protocol = settle(strategy=strategy, weights=weights, distance="cosine")
    merged = merge(state, updates, protocol, seeded(0))
    assert merged.model.head["w"].tolist() == ([6.0, 1.0] if weights == "images" else [4.0, 2.0])
    assert sorted(merged.model.centroids.tolist()) == [[0.0, 1.0], [1.0, 0.0]]


def test_fedcc_kmeans_by_euclidean_distance_takes_means_of_centroids_as_they_are(
    state, make_update, seeded
):
    updates = [
        make_update("a", 1, [0.0], [[2.0, 0.0], [0.0, 10.0]]),
        make_update("b", 3, [0.0], [[0.0, 12.0], [4.0, 0.0]]),
    ]
    state = replace(state, model=replace(state.model, head={"w": torch.zeros(1)}))
    protocol = settle(strategy="fedcc-kmeans", distance="euclidean")
    merged = merge(state, updates, protocol, seeded(0))
    assert sorted(merged.model.centroids.tolist()) == [[0.0, 11.0], [3.0, 0.0]]


def test_the_server_can_step_past_the_average(state, make_update, seeded):
    updates = [
        make_update("a", 1, [0.0, 4.0], [[2.0, 0.0], [0.0, 1.0]]),
        make_update("b", 1, [8.0, 0.0], [[0.0, 1.0], [4.0, 0.0]]),
    ]
    state = replace(state, model=replace(state.model, head={"w": torch.tensor([2.0, 2.0])}))
    # from 2, 2 towards the average 4, 2
    for learning_rate, expected in ((1.0, [4.0, 2.0]), (0.5, [3.0, 2.0]), (3.0, [8.0, 2.0])):
        protocol = settle(strategy="fedavg", server_learning_rate=learning_rate)
        merged = merge(state, updates, protocol, seeded(0))
        assert merged.model.head["w"].tolist() == expected


def test_one_client_is_returned_as_it_is(state, make_update, seeded):
    update = make_update("all", 5, [0.1, 0.7], [[0.3, 0.1], [0.2, 0.9]])
    protocol = settle(strategy="centralized")
    merged = merge(state, [update], protocol, seeded(0))
    assert torch.equal(merged.model.head["w"], update.parts["head.w"])
    assert torch.equal(merged.model.centroids, update.parts["centroids"])


def test_shares_sum_to_one():
    assert client_shares([1, 3]).tolist() == [0.25, 0.75]


def test_baselines_have_switches_of_their_own():
    local = settle(strategy="local", rounds=4)
    assert (local.strategy_name, local.rounds) == ("local", 4)
    assert (local.aggregate_heads, local.aggregate_centroids) == (False, False)
    pooled = settle(strategy="centralized", aggregate_heads=False, aggregate_centroids=False)
    assert (pooled.aggregate_heads, pooled.aggregate_centroids) == (True, True)
    assert pooled.strategy.pools_images


FREE = [name for name, one in STRATEGIES.items() if one.aggregates is None and not one.one_model]


@pytest.mark.parametrize("strategy", FREE)
def test_strategies_keep_the_switches_they_are_given(strategy):
    kept = settle(strategy=strategy, aggregate_heads=False)
    assert (kept.aggregate_heads, kept.aggregate_centroids) == (False, True)
    kept = settle(strategy=strategy, aggregate_centroids=False)
    assert (kept.aggregate_heads, kept.aggregate_centroids) == (True, False)


def test_most_strategies_leave_the_switches_open():
    assert set(STRATEGIES) - set(FREE) == {"local", "centralized", "lloyd", "pca"}


@pytest.mark.parametrize(
    ("heads", "centroids", "kept"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, True)],
)
def test_clients_keep_a_model_where_a_part_is_not_aggregated(heads, centroids, kept):
    protocol = settle(aggregate_heads=heads, aggregate_centroids=centroids)
    assert protocol.keeps_own_models is kept


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("fedcc-kmean", "did you mean 'fedcc-kmeans'?"),
        (
            "x",
            "choose one of fedavg, fedcc-kmeans, fedcc-maximin, consensus, lloyd, pca, local, "
            "centralized",
        ),
    ],
)
def test_an_unknown_strategy_names_the_nearest_or_all(name, advice):
    message = f"unknown federation.strategy {name!r}; {advice}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        settle(strategy=name)


def expect_refusal(message, state, updates, seeded, protocol=FEDAVG):
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        merge(state, updates, protocol, seeded(0))


def test_a_round_without_answers_is_refused(state, seeded):
    state = replace(state, round_number=4)
    expect_refusal("no client answered in round 5", state, [], seeded)


def test_a_client_that_answers_twice_is_refused(state, updates, seeded):
    message = "client 'b' answered more than once in round 1"
    expect_refusal(message, state, [updates[1], updates[0], updates[1]], seeded)


def test_a_client_without_images_is_refused(state, updates, seeded):
    updates[1] = replace(updates[1], num_images=0)
    message = "client 'b' must have trained on at least 1 image, got 0"
    expect_refusal(message, state, updates, seeded)


def test_a_missing_part_is_refused(state, updates, seeded):
    updates[0] = without(updates[0], "head.w")
    message = "client 'a' sent ['centroids'], expected ['centroids', 'head.w']"
    expect_refusal(message, state, updates, seeded)


def test_a_part_that_should_have_stayed_with_the_client_is_refused(state, updates, seeded):
    message = "client 'a' sent ['centroids', 'head.w'], expected ['centroids']"
    expect_refusal(message, state, updates, seeded, replace(FEDAVG, aggregate_heads=False))


def test_centroids_of_another_shape_are_refused(state, updates, seeded):
    updates[1] = with_part(updates[1], "centroids", torch.zeros(3, 2))
    message = "client 'b' sent centroids of shape (3, 2), expected (2, 2)"
    expect_refusal(message, state, updates, seeded)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value, state, updates, seeded):
    updates[1] = with_part(updates[1], "head.w", torch.tensor([0.0, value]))
    expect_refusal("client 'b' sent head.w with values that are not finite", state, updates, seeded)


def test_a_client_that_sends_another_dtype_is_named(make_state, make_update):
    state = make_state({"w": torch.ones(3)}, torch.ones(2, 2))
    update = make_update("a", 1, [1.0, 2.0, 3.0], [[1.0, 2.0], [3.0, 4.0]])
    update = with_part(update, "centroids", update.parts["centroids"].double())
    message = "client 'a' sent centroids as torch.float64, expected torch.float32"
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        merge(state, [update], settle(), torch.Generator())


SHAPED = "return a torch.float32 tensor of 2 x 2 (model.num_clusters x model.code_dim), all values"


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (None, "a value of type NoneType"),
        (np.zeros((2, 2), np.float32), "a value of type ndarray"),
        (torch.zeros(1, 2), "a tensor of shape (1, 2)"),
        (torch.zeros(5, 2), "a tensor of shape (5, 2)"),
        (torch.zeros(2, 2, dtype=torch.float64), "a tensor of torch.float64"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), "values that are not finite"),
        (torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]), "values that are not finite"),
    ],
)
def test_what_a_strategy_of_ones_own_returns_is_checked(
    returned, found, state, updates, seeded, monkeypatch
):
    mine = Strategy(each_round(train_task(lambda _gathered: returned)))
    monkeypatch.setitem(STRATEGIES, "mine", mine)
    message = f"federation.strategy 'mine' returned {found}; {SHAPED} finite"
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        merge(state, updates, settle(strategy="mine"), seeded(0))


def test_a_model_that_stays_with_clients_goes_with_one_exchange_in_a_round(monkeypatch):
    two = Strategy(each_round(train_task(lambda gathered: gathered.state.model), LLOYD_STEP))
    monkeypatch.setitem(STRATEGIES, "two", two)
    assert len(settle(strategy="two").tasks(1)) == 2
    for switch in ("aggregate_heads", "aggregate_centroids"):
        with pytest.raises(ConfigError, match=r"'two' has 2 exchanges in a round"):
            settle(strategy="two", **{switch: False})
