"""How many images a client counts with, by hand and against slow search."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.core.errors import ConfigError, FederationError
from fusseg.federation.gathering import aggregate, client_shares
from fusseg.federation.lloyd_steps import LLOYD_STEP, CodeSums
from fusseg.federation.parts import head_parts
from fusseg.federation.protocol import Task
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.federation.weights import bounded_counts, client_weight, num_bounded, weight_bound


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ([24, 24, 10_000_000], 0.5, [24, 24, 48]),
        ([24, 10_000_000], 0.5, [24, 24]),
        ([7], 0.5, [7]),
        ([7, 9, 8], 0.5, [7, 9, 8]),
        ([7, 9, 8], 1.0, [7, 9, 8]),
        # 40 of 100 each: both large ones are bounded, and share alike.
        ([20, 900, 500], 0.4, [20, 40, 40]),
        # 5 / 13 is below 0.4; 6 / 14 is not.
        ([4, 4, 90], 0.4, [4, 4, 5]),
        # Three clients cannot each have at most a quarter: all count alike.
        ([5, 50, 500], 0.25, [5, 5, 5]),
        ([5, 50, 500, 5000, 50000], 0.2, [5, 5, 5, 5, 5]),
    ],
)
def test_images_beyond_the_share_do_not_count(counts, most, expected):
    assert bounded_counts(counts, most) == expected


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    most=st.sampled_from([0.2, 0.25, 1 / 3, 0.4, 0.5, 0.75, 1.0]),
)
def test_the_limit_is_the_largest_that_keeps_to_the_share(counts, most):
    def keeps(limit):
        lowered = [min(count, limit) for count in counts]
        return max(lowered) <= (most + 1e-5) * sum(lowered)

    limits = [limit for limit in range(min(counts), max(counts) + 1) if keeps(limit)]
    limit = max(limits, default=min(counts))
    found = bounded_counts(counts, most)
    assert found == [min(count, limit) for count in counts]
    assert sum(one < count for one, count in zip(found, counts, strict=True)) <= num_bounded(most)


@pytest.mark.parametrize(("most", "number"), [(1.0, 0), (0.5, 1), (0.34, 2), (0.2, 4), (0.01, 99)])
def test_only_so_many_clients_can_be_bounded(most, number):
    assert num_bounded(most) == number


def test_nothing_is_bounded_in_a_simulation_unless_it_is_asked_for():
    assert weight_bound(FederationConfig(), deployed=False) == 1.0
    assert weight_bound(FederationConfig(), deployed=True) == 0.5
    for deployed in (True, False):
        assert weight_bound(FederationConfig(max_weight_share=0.3), deployed=deployed) == 0.3


@pytest.mark.parametrize("share", [0.0, 0.001, 1.5, -1.0, float("nan")])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(ConfigError, match=r"federation\.max_weight_share must be at "):
        Config(federation=FederationConfig(max_weight_share=share))


def settle(*, deployed=False, **federation):
    return resolve(
        Config(
            model=ModelConfig(init="random", num_clusters=2),
            federation=FederationConfig(**federation),
        ),
        deployed=deployed,
    )


FEDAVG = settle(strategy="fedavg", max_weight_share=0.5)


def merge(state, updates, protocol, generator):
    """Aggregate what clients trained."""
    (task,) = protocol.tasks(1)
    return aggregate(state, updates, protocol, task, generator).model


@pytest.mark.parametrize(("deployed", "share"), [(False, 1.0), (True, 0.5)])
def test_the_settled_rules_hold_the_bound(deployed, share):
    assert settle(deployed=deployed).max_weight_share == share
    assert settle(deployed=deployed, max_weight_share=0.3).max_weight_share == 0.3


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.zeros(1)}, torch.zeros(1, 1))


def test_a_claim_of_millions_of_images_weighs_half(state, make_update, seeded):
    updates = [
        make_update("a", 20, [1.0], [[1.0]]),
        make_update("b", 30, [2.0], [[2.0]]),
        make_update("liar", 10_000_000, [8.0], [[8.0]]),
    ]
    # (20 * 1 + 30 * 2 + 50 * 8) / 100, whoever comes first
    for order in permutations(updates):
        model = merge(state, order, FEDAVG, seeded(0))
        assert model.head["w"].tolist() == pytest.approx([4.8])
        assert model.centroids.tolist() == [pytest.approx([4.8])]


def test_a_bound_that_binds_nobody_changes_no_bit(state, make_update, same_bits, seeded):
    updates = [make_update(str(place), place + 2, [0.1 * place], [[0.3]]) for place in range(4)]
    models = [
        merge(state, updates, replace(FEDAVG, max_weight_share=most), seeded(0))
        for most in (0.5, 1.0)
    ]
    assert same_bits(models[0], models[1])


def test_clients_that_count_alike_are_not_bounded(state, make_update, seeded):
    updates = [make_update("a", 2, [1.0], [[1.0]]), make_update("b", 9_000, [2.0], [[2.0]])]
    model = merge(
        state, updates, replace(FEDAVG, weights="equal", centroid_weights="equal"), seeded(0)
    )
    assert model.head["w"].tolist() == [1.5]


def test_sums_of_codes_of_a_bounded_client_are_lowered(make_state, seeded):
    start = make_state({"w": torch.zeros(1)}, torch.tensor([[1.0, 0.0]]))
    seen = []

    def watched(gathered):
        seen.append(gathered.totals)
        return LLOYD_STEP.merge(gathered)

    def update(name, images, x, y):
        parts = {"sums": torch.tensor([[x, y]]).double(), "counts": torch.tensor([images])}
        return ClientUpdate(name, images, parts=parts)

    updates = [update("a", 10, 10.0, 0.0), update("liar", 1000, 0.0, 1000.0)]
    task = replace(LLOYD_STEP, merge=watched)
    moved = aggregate(start, updates, FEDAVG, task, seeded(0)).model.centroids
    torch.testing.assert_close(moved, torch.tensor([[0.5**0.5, 0.5**0.5]]))
    (totals,) = seen
    assert totals["counts"].tolist() == [20]


def test_positions_of_a_bounded_client_weigh_less_in_the_consensus(make_state, seeded):
    start = make_state({"w": torch.zeros(1)}, torch.eye(2))
    first = torch.eye(2)
    second = torch.tensor([[0.8, 0.6], [0.6, -0.8]])

    def merged(images, most):
        updates = [
            ClientUpdate(
                name,
                count,
                loss=0.0,
                parts={
                    "head.w": torch.zeros(1),
                    "centroids": centroids,
                    "counts": torch.tensor([count, count]),
                    "cosines": torch.ones(2).double(),
                },
            )
            for name, count, centroids in (("a", 10, first), ("liar", images, second))
        ]
        protocol = settle(strategy="consensus", max_weight_share=most)
        return merge(start, updates, protocol, seeded(0)).centroids

    torch.testing.assert_close(merged(10_000, 0.5), merged(10, 1.0))
    assert not torch.allclose(merged(10_000, 1.0), merged(10, 1.0))


def unsure(make_update, name, images, fit, value):
    update = make_update(name, images, [value], [[value]])
    return replace(update, parts={**update.parts, "fit": torch.tensor(fit).double()})


@pytest.mark.parametrize(
    ("fit", "expected"), [(0.5, 3 * 200), (0.0, 3 * 100), (-1.0, 3 * 50), (1.0, 3 * 100_000)]
)
def test_uncertainty_weighs_by_images_over_the_spread_of_codes(fit, expected, make_update):
    update = unsure(make_update, "a", 3, fit, 0.0)
    assert client_weight(update, "uncertainty") == expected
    assert client_weight(update, "images") == 3
    assert client_weight(update, "equal") == 1


def test_heads_and_centroids_have_their_own_weights(state, make_update, seeded):
    updates = [unsure(make_update, "a", 1, 0.5, 0.0), unsure(make_update, "b", 2, 0.75, 10.0)]
    expected = {"images": 20 / 3, "equal": 5.0, "uncertainty": 8.0}
    for heads, head in expected.items():
        for centroids, centroid in expected.items():
            protocol = settle(strategy="fedavg", weights=heads, centroid_weights=centroids)
            sent = updates
            if not protocol.weighs_by_fit:
                sent = [make_update("a", 1, [0.0], [[0.0]]), make_update("b", 2, [10.0], [[10.0]])]
            model = merge(state, sent, protocol, seeded(0))
            assert model.head["w"].tolist() == pytest.approx([head])
            assert model.centroids.tolist() == [pytest.approx([centroid])]


def test_the_weight_of_a_client_that_claims_to_fit_perfectly_is_bounded(state, make_update, seeded):
    updates = [
        unsure(make_update, "a", 4, 0.5, 1.0),
        unsure(make_update, "b", 4, 0.5, 2.0),
        unsure(make_update, "liar", 1, 1.0, 9.0),
    ]
    protocol = settle(strategy="fedavg", weights="uncertainty", max_weight_share=0.5)
    # 800 each, and as much as both together: (1 + 2 + 2 * 9) / 4, whoever comes first
    for order in permutations(updates):
        model = merge(state, order, protocol, seeded(0))
        assert model.head["w"].tolist() == pytest.approx([5.25])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "uncertainty", "strategy": "local"}, "weights is 'uncertainty', but"),
        ({"weights": "uncertainty", "strategy": "pca"}, "weights is 'uncertainty', but"),
        (
            {"weights": "uncertainty", "aggregate_heads": False},
            "enters no average of what clients train",
        ),
        ({"centroid_weights": "equal"}, "no centroids are averaged under federation.strategy"),
        (
            {"centroid_weights": "equal", "strategy": "fedavg", "aggregate_centroids": False},
            "no centroids are averaged",
        ),
    ],
)
def test_weights_that_enter_no_average_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolve(Config(federation=FederationConfig(**settings)))


def test_an_exchange_that_trains_without_telling_the_fit_is_refused(state, make_update, seeded):
    protocol = settle(strategy="fedavg", weights="uncertainty")
    task = Task(
        "own", lambda state, _: head_parts(state.model.head), dict, lambda found: None, trains=True
    )
    with pytest.raises(FederationError, match=r"'own' .* does not send the part 'fit'"):
        aggregate(state, [], protocol, task, seeded(0))


def test_the_fit_is_the_mean_cosine_of_all_codes_to_their_centroids():
    sums = CodeSums(torch.tensor([[3.0, 1.0], [0.0, 0.5]]).double(), torch.tensor([4, 1]))
    centroids = torch.tensor([[2.0, 0.0], [0.0, 7.0]])
    assert sums.mean_cosine(centroids).item() == pytest.approx(3.5 / 5)


def test_shares_sum_to_one():
    assert client_shares([1, 3]).tolist() == [0.25, 0.75]
