import re
from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import Config, LocalConfig
from fusseg.core.errors import FederationError
from fusseg.core.version import VERSION
from fusseg.federation.hello import agree, local_steps, say_hello
from fusseg.federation.state import Client, Hello
from fusseg.federation.strategies import resolve

QUANTILES = (0.75, 0.80, 0.95)
SHIFTS = ("shift_self", "shift_neighbor", "shift_random")


def settle(seed=0, stego=None, **local):
    """Rules with these settings of `[local]` and `[local.stego]`."""
    tables = {} if stego is None else {"stego": stego}
    return resolve(Config(seed=seed, local=LocalConfig(tables=tables, **local)))


ESTIMATE = {"positions": 5, "shift_batches": 2, "shift_quantiles": QUANTILES}
ESTIMATED = settle(stego=ESTIMATE, batch_size=2)
GIVEN = settle(stego={"shift": (0.4, 0.2, 0.3)}, batch_size=2)
FINGERPRINT = "f" * 64


def hello(client_id, num_images, total, count, shift=(0.1, 0.2, 0.3), spread=1.0):
    """Hello with these estimates; None: without any."""
    total = torch.tensor(total, dtype=torch.float64)
    numbers = {} if shift is None else dict(zip(SHIFTS, shift, strict=True))
    return Hello(client_id, num_images, total, count, numbers, FINGERPRINT, VERSION, spread)


def given(client_id, num_images, total, count):
    """Hello of a client that had nothing to estimate."""
    return hello(client_id, num_images, total, count, shift=None)


def shifts(numbers):
    return [numbers[name] for name in SHIFTS]


def test_a_client_tells_its_counts_and_the_sum_of_its_features(make_features, tmp_path):
    maps = torch.tensor([[1.0, 2.0], [3.0, -4.0]])[:, None, None].expand(2, 3, 2, 2)
    client = Client("a", make_features(maps), tmp_path)
    answer = say_hello(client, GIVEN, center=True)
    assert (answer.client_id, answer.num_images, answer.feature_count) == ("a", 2, 12)
    assert answer.feature_sum.tolist() == [24.0, -12.0]
    assert answer.feature_sum.dtype == torch.float64
    assert answer.numbers == {}
    assert (answer.fingerprint, answer.version) == (FINGERPRINT, VERSION)


def test_a_client_estimates_its_shifts_around_its_own_mean(make_features, tmp_path):
    # Around their mean (1, 1) the two images point in opposite directions.
    maps = torch.tensor([[2.0, 1.0], [0.0, 1.0]])[:, None, None].expand(2, 3, 3, 2)
    client = Client("a", make_features(maps), tmp_path)
    centered = say_hello(client, ESTIMATED, center=True)
    assert shifts(centered.numbers) == pytest.approx([1.0, -1.0, -1.0])
    plain = say_hello(client, ESTIMATED, center=False)
    assert shifts(plain.numbers) == pytest.approx([1.0, 0.2**0.5, 0.2**0.5])


def test_estimated_shifts_depend_on_seed_and_client(random_features, tmp_path):
    features = random_features(0)

    def shift(client_id, seed):
        protocol = settle(seed, ESTIMATE, batch_size=2)
        answer = say_hello(Client(client_id, features, tmp_path), protocol, center=False)
        return tuple(shifts(answer.numbers))

    assert shift("a", 0) == shift("a", 0)
    assert len({shift("a", 0), shift("a", 1), shift("b", 0)}) == 3


def test_the_global_mean_is_that_of_the_pooled_features(random_features, tmp_path):
    parts = [random_features(seed, num_images=count) for seed, count in [(0, 2), (1, 7), (2, 4)]]
    clients = [Client(str(place), part, tmp_path) for place, part in enumerate(parts)]
    hellos = [say_hello(client, GIVEN, center=True) for client in clients]
    plan = agree(hellos, GIVEN, FINGERPRINT, center=True)
    pooled = torch.cat([torch.from_numpy(part.maps[0]).double().flatten(0, 2) for part in parts])
    torch.testing.assert_close(plan.mean_feature, pooled.mean(dim=0).float())


def test_nothing_is_subtracted_where_the_backbone_needs_no_centering():
    plan = agree([given("a", 2, [4.0, 8.0], 2)], GIVEN, FINGERPRINT, center=False)
    assert plan.mean_feature.tolist() == [0.0, 0.0]


def test_shifts_are_averaged_by_number_of_images():
    hellos = [
        hello("b", 3, [0.0], 1, shift=(0.8, -0.4, 1.0)),
        hello("a", 1, [0.0], 1, shift=(0.0, 0.4, 0.6)),
    ]
    plan = agree(hellos, ESTIMATED, FINGERPRINT, center=False)
    assert shifts(plan.agreed) == pytest.approx([0.6, -0.2, 0.9])


def test_given_shifts_are_taken_as_they_are():
    plan = agree([given("a", 9, [0.0], 1)], GIVEN, FINGERPRINT, center=False)
    assert shifts(plan.agreed) == [0.4, 0.2, 0.3]


def test_the_plan_does_not_depend_on_the_order_of_the_answers():
    hellos = [
        hello("a", 3, [0.1, 0.2], 7, shift=(0.1, 0.2, 0.3)),
        hello("b", 5, [1e9, 0.3], 3, shift=(0.7, 0.1, 0.9)),
        hello("c", 7, [-1e9, 0.7], 11, shift=(0.3, 0.6, 0.2)),
    ]
    forward = agree(hellos, ESTIMATED, FINGERPRINT, center=True)
    backward = agree(hellos[::-1], ESTIMATED, FINGERPRINT, center=True)
    assert forward.agreed == backward.agreed
    assert torch.equal(forward.mean_feature, backward.mean_feature)


def test_the_largest_client_gives_the_number_of_steps():
    hellos = [given("a", 4, [0.0], 1), given("b", 11, [0.0], 1)]
    assert agree(hellos, GIVEN, FINGERPRINT, center=False).num_steps == 5


@pytest.mark.parametrize(
    ("settings", "largest", "steps"),
    [
        ({}, 17, 2),
        ({}, 5, 1),
        ({"epochs": 2.5}, 16, 5),
        ({"epochs": 0.1}, 16, 1),
        ({"steps": 7}, 16, 7),
    ],
)
def test_steps_are_given_or_epochs_of_the_largest_client(settings, largest, steps):
    assert local_steps(settle(batch_size=8, **settings).local, [2, largest, 4]) == steps


@pytest.mark.parametrize(
    ("images", "steps"),
    [
        ([24, 16, 10_000_000], 30),
        ([24, 24, 240], 30),
        # Of two, the median is the lower.
        ([24, 10_000_000], 30),
        ([3, 10_000_000, 2], 10),
        ([80], 10),
        ([10_000_000, 10_000_000, 8], 1_250_000),
    ],
)
def test_the_largest_client_takes_at_most_ten_times_the_steps_of_the_median_one(images, steps):
    assert local_steps(settle(batch_size=8).local, images) == steps


def test_a_bounded_client_moves_mean_and_shifts_by_its_share_alone():
    hellos = [
        hello("a", 10, [10.0], 10, shift=(0.0, 0.0, 0.0)),
        hello("liar", 1000, [5000.0], 1000, shift=(1.0, 1.0, 1.0)),
    ]
    bounded = replace(ESTIMATED, max_weight_share=0.5)
    plan = agree(hellos, bounded, FINGERPRINT, center=True)
    assert plan.mean_feature.tolist() == [3.0]
    assert shifts(plan.agreed) == [0.5, 0.5, 0.5]


def test_a_bound_that_binds_nobody_changes_no_bit_of_the_plan():
    hellos = [
        hello("a", 3, [0.1, 0.2], 7, shift=(0.1, 0.2, 0.3)),
        hello("b", 5, [0.7, 0.3], 3, shift=(0.7, 0.1, 0.9)),
        hello("c", 7, [0.2, 0.7], 11, shift=(0.3, 0.6, 0.2)),
    ]
    free, bounded = (
        agree(hellos, replace(ESTIMATED, max_weight_share=most), FINGERPRINT, center=True)
        for most in (1.0, 0.5)
    )
    assert torch.equal(free.mean_feature, bounded.mean_feature)
    assert free.agreed == bounded.agreed


def expect_refusal(message, hellos, protocol=ESTIMATED):
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        agree(hellos, protocol, FINGERPRINT, center=False)


def test_a_federation_without_clients_is_refused():
    expect_refusal("no client answered the hello", [])


def test_a_foreign_backbone_is_refused():
    foreign = replace(hello("b", 1, [0.0], 1), fingerprint="0123456789abcdef" * 4)
    message = (
        "client 'b' has a backbone with fingerprint 0123456789abcdef, expected "
        "ffffffffffffffff; give it the same weights"
    )
    expect_refusal(message, [hello("a", 1, [0.0], 1), foreign])


def test_a_foreign_version_is_refused():
    foreign = replace(hello("b", 1, [0.0], 1), version="9.9")
    expect_refusal(f"client 'b' runs fusseg 9.9, expected {VERSION}", [foreign])


def test_a_client_that_sent_no_estimates_is_refused():
    silent = given("b", 1, [0.0], 1)
    message = f"client 'b' sent the numbers [], expected {sorted(SHIFTS)}"
    expect_refusal(message, [hello("a", 1, [0.0], 1), silent])
    plan = agree([silent], GIVEN, FINGERPRINT, center=False)
    assert shifts(plan.agreed) == [0.4, 0.2, 0.3]


def test_a_client_that_sent_estimates_nobody_asked_for_is_refused():
    message = f"client 'b' sent the numbers {sorted(SHIFTS)}, expected []"
    expect_refusal(message, [given("a", 1, [0.0], 1), hello("b", 1, [0.0], 1)], GIVEN)


def test_an_objective_that_combines_to_other_numbers_is_refused():
    objective = replace(ESTIMATED.local.objective, combine=lambda _numbers, _counts: {"other": 1.0})
    protocol = replace(ESTIMATED, local=replace(ESTIMATED.local, objective=objective))
    hellos = [hello("a", 3, [0.0], 1, shift=(0.1, 0.2, 0.3))]
    with pytest.raises(FederationError, match=r"to \['other'\], expected \['shift_neighbor'"):
        agree(hellos, protocol, FINGERPRINT, center=False)
