"""Noise in sums: what is shortened, how large the noise is, and what is refused."""

import math

import pytest
import torch
from scipy.stats import chi2

from fusseg.config.file import parse_config
from fusseg.core.errors import ConfigError, FederationError
from fusseg.federation.discrete_gaussian import SCALE_BITS
from fusseg.federation.noise import (
    Grain,
    add_noise,
    describe_guarantee,
    grains,
    noised_exchanges,
    settle_total,
    shorten_change,
)
from fusseg.federation.parts import Part
from fusseg.federation.secure_sums import make_term, read_total, rules_of_sum
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve

IMAGE = {
    "model": {"whitening": 0.0, "init_clusters": 1, "init_steps": 3},
    "federation": {"strategy": "pca", "keep": "last"},
    "privacy": {"secure_sum": True, "noise": "image", "feature_norm": 2.0},
}
SITE = {
    "model": {"init": "random"},
    "federation": {"strategy": "fedavg", "keep": "last", "weights": "equal", "rounds": 5},
    "local": {"stego": {"shift": [0.1, 0.2, 0.3]}},
    "privacy": {"secure_sum": True, "noise": "site"},
}


def changed(base, **sections):
    return {**base, **{name: {**base.get(name, {}), **more} for name, more in sections.items()}}


def test_the_budget_is_spread_over_all_exchanges():
    protocol = resolve(parse_config(IMAGE))
    # Moments, three Lloyd steps, and no finish.
    assert noised_exchanges(protocol) == 4
    found = describe_guarantee(protocol)
    assert found.epsilon <= 8.0 < 1.03 * found.epsilon
    assert (found.protects, found.delta, found.exchanges) == ("image", 1e-6, 4)
    more = resolve(parse_config(changed(IMAGE, privacy={"spare_exchanges": 4})))
    assert more.privacy.noise_multiplier > 1.3 * protocol.privacy.noise_multiplier
    assert describe_guarantee(resolve(parse_config({}))) is None


def test_noise_too_weak_for_the_budget_is_refused():
    protocol = resolve(parse_config(changed(IMAGE, privacy={"noise_multiplier": 0.5})))
    with pytest.raises(ConfigError, match=r"epsilon is 8, but .* 4 exchanges spend"):
        describe_guarantee(protocol)


def lloyd():
    protocol = resolve(parse_config(IMAGE))
    task = protocol.tasks(0)[1]
    parts = {
        "counts": Part((4,), torch.int64, "sum"),
        "sums": Part((4, 3), torch.float64, "sum"),
    }
    return protocol, task, parts


def test_an_image_moves_a_part_by_its_share_of_the_noise():
    protocol, task, parts = lloyd()
    found = grains(task, parts, protocol, positions=100, needed=3)
    z = protocol.privacy.noise_multiplier
    for name, share in (("sums", 0.9), ("counts", 0.1)):
        # Half of the 100 unit codes of an image; rounding adds little.
        deviation = z * 50 / math.sqrt(share)
        assert found[name].deviation == pytest.approx(deviation, rel=1e-4)
        assert found[name].deviation > deviation
    # Together they are one mechanism.
    total = sum((50 / one.deviation) ** 2 for one in found.values())
    assert total == pytest.approx(1 / z**2, rel=1e-3)


def test_a_sum_of_terms_holds_their_sum_and_noise_of_the_stated_size():
    protocol, task, parts = lloyd()
    rules = rules_of_sum(task, parts, protocol, 100, 3)
    sums, counts = torch.full((4, 3), 5e6).double(), torch.full((4,), 3e6).double()
    terms = []
    for name in "abc":
        update = ClientUpdate(name, 7, None, {"sums": sums, "counts": counts})
        terms.append(make_term(update, rules, 3))
    total = read_total(sum(terms), ["a", "b", "c"], {}, rules)
    assert total.num_images == 21
    errors = (total.parts["sums"] - 3 * sums) / rules.grains["sums"].deviation
    # Outside of these once in a million times.
    low, high = chi2.ppf([5e-7, 1 - 5e-7], errors.numel())
    assert low < float(errors.square().sum()) < high
    assert total.parts["counts"].dtype == torch.int64
    assert float((total.parts["counts"] - 9e6).abs().max()) < 8 * rules.grains["counts"].deviation
    # The noise is the system's: the same term is never made twice.
    assert not torch.equal(terms[0], make_term(update, rules, 3))


def test_numbers_beyond_what_sums_can_hold_are_refused():
    with pytest.raises(FederationError, match=r"too large to be summed with noise"):
        add_noise(torch.tensor([2.0**40]), Grain(1.0, 2.0**SCALE_BITS), 2.0**40)


def test_counts_that_noise_could_have_made_are_zero_and_so_are_their_sums():
    parts = {"counts": Part((3,), torch.int64, "sum"), "sums": Part((3, 2), torch.float64, "sum")}
    values = {
        "counts": torch.tensor([-4.0, 29.0, 31.4]).double(),
        "sums": torch.ones(3, 2).double(),
    }
    found = settle_total(values, parts, {"counts": Grain(1.0, 10.0), "sums": Grain(1.0, 10.0)})
    assert found["counts"].tolist() == [0, 0, 31]
    assert found["sums"].tolist() == [[0, 0], [0, 0], [1, 1]]


REFUSED = {
    "plain sums": (changed(IMAGE, privacy={"secure_sum": False}), "only sums can be noised"),
    "a judge": (
        changed(IMAGE, model={"whitening": "auto"}, backbone={"name": "efficientnet-lite2"}),
        "which cannot be noised",
    ),
    "a choice": (changed(SITE, federation={"keep": "best"}, model={"init": "pca"}), "cannot be"),
    "no feature norm": (changed(IMAGE, privacy={"feature_norm": 0.0}), "feature_norm is 0"),
    "training for an image": (changed(SITE, privacy={"noise": "image"}), "exchanges train"),
    "sums for a site": (changed(IMAGE, privacy={"noise": "site"}), "which cannot be noised"),
    "weights": (changed(SITE, federation={"weights": "images"}), "set it to 'equal'"),
    "estimates": (changed(SITE, local={"stego": {}}), "estimates numbers"),
    "fedcc": (changed(SITE, federation={"strategy": "fedcc-maximin"}), "choose 'fedavg'"),
    "crops": (changed(IMAGE, data={"crops": "five"}), "one image is several"),
    "centering": (changed(IMAGE, backbone={"center": True}), "mean features are not told"),
    "own heads": (changed(SITE, federation={"aggregate_heads": False}), "aggregate_heads"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_settings_with_which_something_would_be_sent_without_noise_are_refused(kind):
    table, reason = REFUSED[kind]
    with pytest.raises(ConfigError, match=reason):
        resolve(parse_config(table))


def test_a_change_of_all_parts_together_is_shortened():
    protocol = resolve(parse_config(SITE))
    task = protocol.tasks(1)[0]
    parts = {
        "a": Part((2,), torch.float32, "mean", start=torch.ones(2)),
        "b": Part((1,), torch.float32, "mean", start=torch.zeros(1)),
    }
    measured = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([4.0])}
    found = shorten_change(measured, parts, 1.0)
    # A change of (3, 0, 4) has length 5.
    assert found["a"].tolist() == pytest.approx([1.6, 1.0])
    assert found["b"].tolist() == pytest.approx([0.8])
    one = grains(task, parts, protocol, 100, 3)
    assert one["a"] == one["b"]
    z = protocol.privacy.noise_multiplier
    assert one["a"].deviation == pytest.approx(z, rel=1e-4)
