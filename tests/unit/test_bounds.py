"""What no honest client can send; what one does send is checked in test_rounds."""

from dataclasses import replace

import pytest
import torch

from fusseg.config import FederationConfig, LocalConfig
from fusseg.errors import FederationError
from fusseg.federation.bounds import ADAM_REACH, ClientFacts, check_hello, check_plausible
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
from fusseg.federation.state import CentroidUsage, ClientUpdate, Hello
from fusseg.version import VERSION

LOCAL = LocalConfig(head_learning_rate=0.1, centroid_learning_rate=0.5)
FEDERATION = FederationConfig(positions_per_image=4)
FACTS = ClientFacts(num_images=3, positions_per_image=6)
"""12 positions in all are looked at."""


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.tensor([1.0, -1.0])}, torch.zeros(2, 2))


def check(state, **sent):
    check_plausible(state, ClientUpdate("a", 3, **sent), FACTS, LOCAL, FEDERATION)


def test_one_step_moves_a_weight_by_three_learning_rates_at_most(state):
    assert pytest.approx(3.162, abs=1e-3) == ADAM_REACH
    check(state, head={"w": torch.tensor([1.316, -0.684])}, loss=0.0)
    with pytest.raises(FederationError, match=r"sent w with a value that moved by 0.33"):
        check(state, head={"w": torch.tensor([1.33, -1.0])}, loss=0.0)
    check(state, centroids=torch.full((2, 2), 1.58), loss=0.0)
    with pytest.raises(FederationError, match="centroids with a value that moved by 1e"):
        check(state, centroids=torch.tensor([[0.0, 1e30], [0.0, 0.0]]), loss=0.0)


def test_more_steps_reach_farther(state):
    farther = replace(state, plan=replace(state.plan, num_steps=10))
    check(farther, head={"w": torch.tensor([4.16, -1.0])}, loss=0.0)


def test_the_number_of_images_is_that_of_the_hello(state):
    with pytest.raises(FederationError, match="has 3 images by its hello, but sent a count of 900"):
        check_plausible(state, ClientUpdate("a", 900), FACTS, LOCAL, FEDERATION)


def test_sums_are_no_longer_than_their_counts(state):
    counts = torch.tensor([10, 2])
    check(state, code_sums=CodeSums(torch.tensor([[6.0, 8.0], [0.0, 2.0]]).double(), counts))
    with pytest.raises(FederationError, match="of length 3, longer than their number"):
        check(state, code_sums=CodeSums(torch.tensor([[0.0, 1.0], [0.0, 3.0]]).double(), counts))
    with pytest.raises(FederationError, match="counts of 13 positions in all, expected 12"):
        check(state, code_sums=CodeSums(torch.zeros(2, 2).double(), torch.tensor([10, 3])))


def test_centroid_usage_counts_every_position_once(state):
    cosines = torch.tensor([0.5, 1.0]).double()
    check(state, usage=CentroidUsage(torch.tensor([12, 0]), cosines))
    with pytest.raises(FederationError, match="counts of 11 positions"):
        check(state, usage=CentroidUsage(torch.tensor([11, 0]), cosines))
    with pytest.raises(FederationError, match="a mean cosine of 2, must be at most 1"):
        check(state, usage=CentroidUsage(torch.tensor([12, 0]), 2 * cosines))


def test_moments_obey_the_inequality_of_sums_and_squares(state):
    second = torch.diag(torch.tensor([12.0, 3.0])).double()
    count = torch.tensor(12)
    check(state, moments=FeatureMoments(second, torch.tensor([12.0, -6.0]).double(), count))
    too_long = FeatureMoments(second, torch.tensor([12.0, -6.1]).double(), count)
    with pytest.raises(FederationError, match="its sum of squares does not allow"):
        check(state, moments=too_long)
    with pytest.raises(FederationError, match="its sum of squares does not allow"):
        check(state, moments=FeatureMoments(-second, torch.zeros(2).double(), count))
    with pytest.raises(FederationError, match="count of 5 positions in all, expected 12"):
        check(state, moments=FeatureMoments(second, torch.zeros(2).double(), torch.tensor(5)))


def hello(num_images=3, feature_count=18, largest=1.0):
    total = torch.tensor([0.0, largest * feature_count, -1.0], dtype=torch.float64)
    return Hello("a", num_images, total, feature_count, None, "f" * 64, VERSION)


def refused(found):
    with pytest.raises(FederationError) as caught:
        check_hello(found, positions_per_image=6)
    return str(caught.value)


def test_an_honest_hello_counts_every_position_of_every_image():
    check_hello(hello(), positions_per_image=6)
    check_hello(hello(num_images=2, feature_count=12), positions_per_image=6)
    for count in (17, 19, 3):
        assert refused(hello(feature_count=count)) == (
            f"client 'a' sent feature_count of {count} positions in all, expected 18"
        )


def test_a_client_has_a_number_of_images_that_can_be():
    most = 10_000_000
    check_hello(hello(num_images=most, feature_count=6 * most), positions_per_image=6)
    for count in (-1, 0, 1, most + 1):
        assert refused(hello(num_images=count, feature_count=6 * count or 1)) == (
            f"client 'a' says it has {count} images, must be 2 to 10000000"
        )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_feature_is_one_that_float16_can_hold(sign):
    check_hello(hello(largest=sign * 65504.0), positions_per_image=6)
    assert refused(hello(largest=sign * 65600.0)) == (
        "client 'a' sent a sum of features with a mean of 6.56e+04, features are at most 65504"
    )
