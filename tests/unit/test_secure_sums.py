"""Terms of secure sums: what they hold, what the server reads, and settings that are refused."""

import math
from dataclasses import replace

import pytest
import torch

from fusseg.config.file import parse_config
from fusseg.core.errors import ConfigError, FederationError
from fusseg.federation.hello import agree_on_total
from fusseg.federation.parts import Part
from fusseg.federation.secure_sums import (
    SumRules,
    check_secure_sum,
    hello_shapes,
    hides_only_heads,
    make_hello_term,
    make_term,
    open_parts,
    read_hello_total,
    read_total,
    sites_needed,
    sum_hellos,
)
from fusseg.federation.state import ClientUpdate, Hello
from fusseg.federation.strategies import resolve
from fusseg.federation.weights import FIT

SECURE = {"privacy": {"secure_sum": True, "resolution": 16}}
PROTOCOL = resolve(parse_config(SECURE))
(TRAIN, *_) = PROTOCOL.tasks(1)
PARTS = {
    "mean": Part((2,), torch.float32, "mean"),
    "sum": Part((), torch.float64, "sum"),
    "count": Part((), torch.int64, "sum"),
    "own": Part((3,), torch.float32, "collect"),
}
RULES = SumRules(PARTS, TRAIN, PROTOCOL)


def update(name, images, loss, mean, total, count):
    parts = {
        "mean": torch.tensor(mean),
        "sum": torch.tensor(total, dtype=torch.float64),
        "count": torch.tensor(count),
        "own": torch.zeros(3),
    }
    return ClientUpdate(name, images, loss, parts)


def test_a_total_holds_sums_and_averages_by_hand():
    one = update("a", 1, 0.5, [1.0, 2.0], 0.25, 2**40)
    other = update("b", 3, -1.5, [5.0, 0.5], 1.0, 7)
    row = sum(make_term(each, RULES, 2) for each in (one, other))
    total = read_total(row, ["b", "a"], {}, RULES)
    assert total.client_ids == ("a", "b")
    assert total.num_images == 4
    assert total.loss == (0.5 - 4.5) / 4
    assert total.parts["mean"].tolist() == [4.0, 0.875]
    assert total.parts["sum"] == 1.25
    assert total.parts["count"] == 2**40 + 7
    assert total.parts.keys() == {"mean", "sum", "count"}
    assert {name: part.dtype for name, part in total.parts.items()} == {
        "mean": torch.float32,
        "sum": torch.float64,
        "count": torch.int64,
    }


def test_only_parts_that_are_not_summed_are_open():
    parts = {**PARTS, FIT: Part((), torch.float64, "collect")}
    assert [*open_parts(parts)] == ["own"]


def test_the_weight_of_uncertainty_is_multiplied_in_at_the_client():
    protocol = replace(PROTOCOL, weights="uncertainty")
    parts = {"mean": PARTS["mean"], FIT: Part((), torch.float64, "collect")}
    rows = []
    for images, fit, mean in ((2, 0.9, 1.0), (1, 0.5, 4.0)):
        sent = {"mean": torch.tensor([mean, 0.0]), FIT: torch.tensor(fit, dtype=torch.float64)}
        sender = ClientUpdate("a", images, 0.0, sent)
        rows.append(make_term(sender, SumRules(parts, TRAIN, protocol), 2))
    total = read_total(sum(rows), ["a", "b"], {}, SumRules(parts, TRAIN, protocol))
    # Weights 2 x 1000 and 1 x 200.
    assert total.parts["mean"][0] == pytest.approx((2000 * 1 + 200 * 4) / 2200)


def test_numbers_that_could_overflow_a_sum_are_refused():
    large = update("a", 1, 0.0, [2.0**46, 0.0], 0.0, 0)
    make_term(large, RULES, 1)
    with pytest.raises(FederationError, match=r"too large to be summed in secret.*resolution"):
        make_term(large, RULES, 4)
    counted = update("a", 1, 0.0, [0.0, 0.0], 0.0, 2**62)
    with pytest.raises(FederationError, match="count that is too large for a sum of 2 terms"):
        make_term(counted, RULES, 2)


def test_a_sum_without_images_is_refused():
    row = torch.zeros_like(make_term(update("a", 1, 0.0, [0.0, 0.0], 0.0, 0), RULES, 1))
    with pytest.raises(FederationError, match="0 images and a weight of 0"):
        read_total(row, ["a"], {}, RULES)


def hello(name, images=4, spread=1.0):
    total = torch.tensor([images * 10.0, 0.5]).double()
    numbers = dict.fromkeys(hello_numbers(), 0.25 * images)
    return Hello(name, images, total, images * 10, numbers, "f" * 64, "1", spread, ("road",))


def hello_numbers():
    local = PROTOCOL.local
    return local.objective.estimated(local.settings)


def test_the_plan_is_made_of_sums_of_hellos():
    total = sum_hellos([hello("b", 4), hello("a", 12)], PROTOCOL)
    assert dict(total.classes_of) == {"a": ("road",), "b": ("road",)}
    assert (total.num_images, total.feature_count) == (16, 160)
    assert total.feature_sum.tolist() == [160.0, 1.0]
    # Weighted by images: (4 x 1 + 12 x 3) / 16.
    assert set(total.numbers.values()) == {2.5}
    plan = agree_on_total(total, PROTOCOL, center=True)
    assert plan.mean_feature.tolist() == pytest.approx([1.0, 0.00625])
    # One pass over a site of average size: 8 images in batches of 8.
    assert plan.num_steps == 1


def test_the_range_of_later_sums_is_checked_before_round_1():
    wide = hello("a", spread=1e7)
    with pytest.raises(FederationError, match=r"can become too large.*lower privacy\.resolution"):
        make_hello_term(wide, PROTOCOL, 3)
    make_hello_term(hello("a", spread=1e5), PROTOCOL, 3)


def test_a_sum_of_hellos_that_no_clients_have_is_refused():
    row = torch.zeros(sum(math.prod(shape) for shape in hello_shapes(PROTOCOL, 2).values()))
    with pytest.raises(FederationError, match="2 clients holds 0 images"):
        read_hello_total(row.long(), {"a": (), "b": ()}, PROTOCOL, 2)


def test_one_client_has_nothing_to_hide_in():
    with pytest.raises(FederationError, match="only one client"):
        sum_hellos([hello("a")], PROTOCOL)


@pytest.mark.parametrize(
    ("threshold", "sites", "needed"),
    [
        (2 / 3, 3, 2),
        (2 / 3, 4, 3),
        (2 / 3, 18, 12),
        (0.51, 2, 2),
        (0.5001, 4, 3),
        (0.5001, 5, 3),
        (1.0, 7, 7),
        (0.667, 3, 3),
    ],
)
def test_sites_needed_are_rounded_up(threshold, sites, needed):
    assert sites_needed(threshold, sites) == needed


REFUSED = {
    "max_weight_share": ({"federation": {"max_weight_share": 0.5}}, "cannot be bounded"),
    "wire": ({"federation": {"wire": "bfloat16"}}, "8 bytes"),
    "centroid_weights": (
        {"federation": {"strategy": "fedavg", "centroid_weights": "equal"}},
        "a term has one weight",
    ),
    "site_clusters": ({"federation": {"site_clusters": "used"}}, "tells the regions"),
    "strategy": ({"federation": {"strategy": "centralized"}}, "sends nothing"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_settings_that_need_more_than_sums_are_refused(key):
    table, match = REFUSED[key]
    with pytest.raises(ConfigError, match=rf"privacy\.secure_sum is set, but .*{key}.*{match}"):
        resolve(parse_config({**SECURE, **table}))


def test_an_objective_with_a_rule_of_its_own_is_refused():
    objective = replace(PROTOCOL.local.objective, combine=lambda numbers, _counts: numbers[0])
    protocol = replace(PROTOCOL, local=replace(PROTOCOL.local, objective=objective))
    with pytest.raises(ConfigError, match="a rule of its own"):
        check_secure_sum(parse_config(SECURE), protocol)


@pytest.mark.parametrize("threshold", [0.5, 1.01, 0])
def test_a_threshold_of_half_the_sites_is_refused(threshold):
    with pytest.raises(ConfigError, match=r"privacy\.threshold must be above 0\.5"):
        parse_config({"privacy": {"threshold": threshold}})


def test_hidden_weights_have_no_bound_in_a_deployment():
    assert resolve(parse_config(SECURE), deployed=True).max_weight_share == 1


@pytest.mark.parametrize(
    ("strategy", "only"),
    [("fedavg", False), ("lloyd", False), ("pca", False), ("consensus", True)],
)
def test_strategies_that_need_centroids_of_each_client_hide_only_heads(strategy, only):
    table = {**SECURE, "federation": {"strategy": strategy}}
    assert hides_only_heads(resolve(parse_config(table))) is only
    assert not hides_only_heads(resolve(parse_config({"federation": {"strategy": strategy}})))
