import re
from dataclasses import replace

import pytest
import torch

from fusseg.config import LocalConfig
from fusseg.errors import FederationError
from fusseg.federation.client import Client
from fusseg.federation.hello import agree, local_steps, say_hello
from fusseg.federation.state import Hello
from fusseg.version import VERSION

QUANTILES = (0.75, 0.80, 0.95)
LOCAL = LocalConfig(batch_size=2, positions=5, shift_batches=2, shift_quantiles=QUANTILES)
GIVEN = LocalConfig(batch_size=2, shift=(0.4, 0.2, 0.3))
FINGERPRINT = "f" * 64


def hello(client_id, num_images, total, count, shift=(0.1, 0.2, 0.3)):
    total = torch.tensor(total, dtype=torch.float64)
    return Hello(client_id, num_images, total, count, shift, FINGERPRINT, VERSION)


def test_a_client_tells_its_counts_and_the_sum_of_its_features(make_features, tmp_path):
    maps = torch.tensor([[1.0, 2.0], [3.0, -4.0]])[:, None, None].expand(2, 3, 2, 2)
    client = Client("a", make_features(maps), tmp_path)
    answer = say_hello(client, GIVEN, seed=0, center=True)
    assert (answer.client_id, answer.num_images, answer.feature_count) == ("a", 2, 12)
    assert answer.feature_sum.tolist() == [24.0, -12.0]
    assert answer.feature_sum.dtype == torch.float64
    assert answer.shift is None
    assert (answer.fingerprint, answer.version) == (FINGERPRINT, VERSION)


def test_a_client_estimates_its_shifts_around_its_own_mean(make_features, tmp_path):
    # Around their mean (1, 1) the two images point in opposite directions.
    maps = torch.tensor([[2.0, 1.0], [0.0, 1.0]])[:, None, None].expand(2, 3, 3, 2)
    client = Client("a", make_features(maps), tmp_path)
    centered = say_hello(client, LOCAL, seed=0, center=True)
    assert centered.shift == pytest.approx((1.0, -1.0, -1.0))
    plain = say_hello(client, LOCAL, seed=0, center=False)
    assert plain.shift == pytest.approx((1.0, 0.2**0.5, 0.2**0.5))


def test_estimated_shifts_depend_on_seed_and_client(random_features, tmp_path):
    features = random_features(0)

    def shift(client_id, seed):
        return say_hello(Client(client_id, features, tmp_path), LOCAL, seed, center=False).shift

    assert shift("a", 0) == shift("a", 0)
    assert len({shift("a", 0), shift("a", 1), shift("b", 0)}) == 3


def test_the_global_mean_is_that_of_the_pooled_features(random_features, tmp_path):
    parts = [random_features(seed, num_images=count) for seed, count in [(0, 2), (1, 7), (2, 4)]]
    clients = [Client(str(place), part, tmp_path) for place, part in enumerate(parts)]
    hellos = [say_hello(client, GIVEN, seed=0, center=True) for client in clients]
    plan = agree(hellos, GIVEN, FINGERPRINT, center=True)
    pooled = torch.cat([torch.from_numpy(part.maps[0]).double().flatten(0, 2) for part in parts])
    torch.testing.assert_close(plan.mean_feature, pooled.mean(dim=0).float())


def test_nothing_is_subtracted_where_the_backbone_needs_no_centering():
    plan = agree([hello("a", 2, [4.0, 8.0], 2)], GIVEN, FINGERPRINT, center=False)
    assert plan.mean_feature.tolist() == [0.0, 0.0]


def test_shifts_are_averaged_by_number_of_images():
    hellos = [
        hello("b", 3, [0.0], 1, shift=(0.8, -0.4, 1.0)),
        hello("a", 1, [0.0], 1, shift=(0.0, 0.4, 0.6)),
    ]
    plan = agree(hellos, LOCAL, FINGERPRINT, center=False)
    assert plan.shift == pytest.approx((0.6, -0.2, 0.9))


def test_given_shifts_are_taken_as_they_are():
    plan = agree([hello("a", 9, [0.0], 1)], GIVEN, FINGERPRINT, center=False)
    assert plan.shift == (0.4, 0.2, 0.3)


def test_the_plan_does_not_depend_on_the_order_of_the_answers():
    hellos = [
        hello("a", 3, [0.1, 0.2], 7, shift=(0.1, 0.2, 0.3)),
        hello("b", 5, [1e9, 0.3], 3, shift=(0.7, 0.1, 0.9)),
        hello("c", 7, [-1e9, 0.7], 11, shift=(0.3, 0.6, 0.2)),
    ]
    forward = agree(hellos, LOCAL, FINGERPRINT, center=True)
    backward = agree(hellos[::-1], LOCAL, FINGERPRINT, center=True)
    assert forward.shift == backward.shift
    assert torch.equal(forward.mean_feature, backward.mean_feature)


def test_the_largest_client_gives_the_number_of_steps():
    hellos = [hello("a", 4, [0.0], 1), hello("b", 11, [0.0], 1)]
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
    assert local_steps(LocalConfig(batch_size=8, **settings), largest) == steps


def expect_refusal(message, hellos, local=LOCAL):
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        agree(hellos, local, FINGERPRINT, center=False)


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


def test_a_client_that_sent_no_shifts_is_refused():
    silent = hello("b", 1, [0.0], 1, shift=None)
    message = "client 'b' sent no shifts, but local.shift is 'auto'"
    expect_refusal(message, [hello("a", 1, [0.0], 1), silent])
    assert agree([silent], GIVEN, FINGERPRINT, center=False).shift == (0.4, 0.2, 0.3)
