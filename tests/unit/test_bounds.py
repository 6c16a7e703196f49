"""What no honest client can send; what one does send is checked in test_rounds."""

from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import FederationError
from fusseg.core.version import VERSION
from fusseg.federation.checks import ADAM_REACH, check_hello, check_plausible, check_update
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.moments import moments_task
from fusseg.federation.parts import ClientFacts
from fusseg.federation.protocol import sent_parts
from fusseg.federation.region_exchange import region_tasks
from fusseg.federation.state import ClientUpdate, Hello
from fusseg.federation.strategies import resolve

FACTS = ClientFacts(num_images=3, positions_per_image=6)
"""12 positions in all are looked at."""


def settle(strategy):
    return resolve(
        Config(
            local=LocalConfig(head_learning_rate=0.1, centroid_learning_rate=0.5),
            federation=FederationConfig(strategy=strategy, positions_per_image=4),
        )
    )


FEDAVG, CONSENSUS = settle("fedavg"), settle("consensus")
(TRAIN,), (MEASURED,) = FEDAVG.tasks(1), CONSENSUS.tasks(1)


@pytest.fixture
def state(make_state):
    return make_state({"w": torch.tensor([1.0, -1.0])}, torch.zeros(2, 2), dim=2)


def check(state, task, protocol=FEDAVG, num_images=3, loss=None, **sent):
    """Check an update of one client; parts that are not given are as the client got them."""
    parts = sent_parts(task, state, protocol)
    got = {name: part.start for name, part in parts.items() if part.start is not None}
    check_plausible(ClientUpdate("a", num_images, loss, got | sent), parts, FACTS)


def trained(state, loss=0.0, head=(1.0, -1.0), centroids=((0.0, 0.0), (0.0, 0.0))):
    sent = {"head.w": torch.tensor(head), "centroids": torch.tensor(centroids)}
    check(state, TRAIN, loss=loss, **sent)


def summed(state, sums, counts):
    check(state, LLOYD_STEP, sums=torch.tensor(sums).double(), counts=torch.tensor(counts))


def used(state, counts, cosines):
    sent = {"counts": torch.tensor(counts), "cosines": torch.tensor(cosines).double()}
    check(state, MEASURED, CONSENSUS, loss=0.0, **sent)


def measured(state, second, first, count):
    sent = {"second": second, "first": first, "count": count}
    check(state, moments_task(2), **sent)


def test_one_step_moves_a_weight_by_three_learning_rates_at_most(state):
    assert pytest.approx(3.162, abs=1e-3) == ADAM_REACH
    trained(state, head=[1.316, -0.684])
    with pytest.raises(FederationError, match=r"sent head\.w with a value that moved by 0.33"):
        trained(state, head=[1.33, -1.0])
    trained(state, centroids=[[1.58, 1.58], [1.58, 1.58]])
    with pytest.raises(FederationError, match="centroids with a value that moved by 1e"):
        trained(state, centroids=[[0.0, 1e30], [0.0, 0.0]])


def test_more_steps_reach_farther(state):
    farther = replace(state, plan=replace(state.plan, num_steps=10))
    trained(farther, head=[4.16, -1.0])


def test_the_number_of_images_is_that_of_the_hello(state):
    with pytest.raises(
        FederationError, match="declared 3 images in its hello, but sent a count of 900"
    ):
        check(state, TRAIN, num_images=900)


def test_sums_are_no_longer_than_their_counts(state):
    summed(state, [[6.0, 8.0], [0.0, 2.0]], [10, 2])
    with pytest.raises(FederationError, match="of length 3, which is longer than"):
        summed(state, [[0.0, 1.0], [0.0, 3.0]], [10, 2])
    with pytest.raises(FederationError, match="counts of 13 positions in all, expected 12"):
        summed(state, [[0.0, 0.0], [0.0, 0.0]], [10, 3])


@pytest.mark.parametrize(
    ("borders", "said"),
    [
        ([[0, 37], [37, 0]], "borders of more neighbors than its positions have, which is at most"),
        ([[0, 2**62], [2**62, 0]], "borders of more neighbors"),
        ([[0, 5], [6, 0]], "borders that differ between the two directions"),
        ([[1, 5], [5, 0]], "borders that differ between the two directions, or of a cluster with"),
        ([[0, -5], [-5, 0]], "borders with a value below 0: -5"),
    ],
)
def test_borders_are_no_more_than_18_positions_have_and_alike_in_both_directions(
    borders, said, state
):
    (task,) = region_tasks(ModelConfig(num_regions=2, merge_by="borders"))
    parts = sent_parts(task, state, FEDAVG)
    sent = {"sums": torch.zeros(2, 2).double(), "counts": torch.tensor([12, 0])}

    def send(counts):
        update = ClientUpdate("a", 3, parts=sent | {"borders": torch.tensor(counts)})
        check_update(update, parts)
        check_plausible(update, parts, FACTS)

    send([[0, 36], [36, 0]])
    with pytest.raises(FederationError, match=f"^client 'a' sent {said}"):
        send(borders)


def test_centroid_usage_counts_every_position_once(state):
    used(state, [12, 0], [0.5, 1.0])
    with pytest.raises(FederationError, match="counts of 11 positions"):
        used(state, [11, 0], [0.5, 1.0])
    with pytest.raises(FederationError, match="a mean cosine of 2; it must be at most 1"):
        used(state, [12, 0], [1.0, 2.0])


def test_the_centroids_of_a_consensus_are_checked_like_any_others(state):
    centroids, counts = torch.full((2, 2), 2.0), torch.tensor([12, 0])
    sent = {"centroids": centroids, "counts": counts, "cosines": torch.zeros(2).double()}
    with pytest.raises(FederationError, match="centroids with a value that moved by 2"):
        check(state, MEASURED, CONSENSUS, loss=0.0, **sent)


def test_moments_obey_the_inequality_of_sums_and_squares(state):
    second = torch.diag(torch.tensor([12.0, 3.0])).double()
    count, none = torch.tensor(12), torch.zeros(2).double()
    measured(state, second, torch.tensor([12.0, -6.0]).double(), count)
    with pytest.raises(FederationError, match="its sum of squares does not allow"):
        measured(state, second, torch.tensor([12.0, -6.1]).double(), count)
    with pytest.raises(FederationError, match="its sum of squares does not allow"):
        measured(state, -second, none, count)
    with pytest.raises(FederationError, match="count of 5 positions in all, expected 12"):
        measured(state, second, none, torch.tensor(5))


@pytest.mark.parametrize("spread", [[2**62] * 3 + [2**62 + 12], [13, -1]])
def test_giant_counts_are_no_count_whatever_they_add_up_to(spread, state):
    """In 64 bits four of 2^62 add up to 0."""
    assert int(torch.tensor(spread).sum()) == 12
    said = f"sent a count of {max(spread)} positions, but has only 12"
    with pytest.raises(FederationError, match=said):
        used(state, spread, [0.0] * len(spread))
    with pytest.raises(FederationError, match=said):
        summed(state, [[0.0, 0.0]] * len(spread), spread)


def test_moments_are_those_of_features_that_can_be_kept(state):
    """Larger ones add up to infinity, which no decomposition survives."""
    count, first = torch.tensor(12), torch.zeros(2).double()
    measured(state, torch.eye(2).double() * 12 * 65504.0**2, first, count)
    with pytest.raises(
        FederationError, match=r"a sum of squares of 1e\+308, but features are at most"
    ):
        measured(state, torch.eye(2).double() * 1e308, first, count)
    products = torch.tensor([[4.0, 6.0], [6.0, 9.0]]).double()
    measured(state, products, first, count)
    products[0, 1] = -1e308
    with pytest.raises(FederationError, match="products that its sums of squares do not allow"):
        measured(state, products, first, count)


@pytest.mark.parametrize("loss", [1.7e308, -2e12])
def test_a_loss_is_one_that_can_be_averaged(loss, state):
    trained(state, loss=-1e12)
    with pytest.raises(FederationError, match="sent a loss of "):
        trained(state, loss=loss)


def hello(num_images=3, feature_count=18, largest=1.0, spread=1.0):
    total = torch.tensor([0.0, largest * feature_count, -1.0], dtype=torch.float64)
    return Hello("a", num_images, total, feature_count, {}, "f" * 64, VERSION, spread)


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
        message = refused(hello(num_images=count, feature_count=6 * count or 1))
        assert f"says it has {count} images; the number must be 2 to 10000000" in message


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_feature_is_one_that_float16_can_hold(sign):
    check_hello(hello(largest=sign * 65504.0), positions_per_image=6)
    message = refused(hello(largest=sign * 65600.0))
    assert "a mean of 6.56e+04, but features are at most 65504" in message


def test_a_hello_above_what_the_operator_expects_is_refused_with_site_value_and_limit():
    check_hello(hello(num_images=3, feature_count=18), 6, max_images=3)
    with pytest.raises(FederationError) as caught:
        check_hello(hello(num_images=4, feature_count=24), 6, max_images=3)
    assert str(caught.value) == (
        "client 'a' says it has 4 images, but max_images of [sites.a] in the server's list of "
        "sites is 3; if the number is right, raise max_images"
    )


@pytest.mark.parametrize("spread", [-1e-9, 1.2e5])
def test_a_spread_is_one_that_features_can_have(spread):
    check_hello(hello(spread=0.0), positions_per_image=6)
    assert "must lie in [0, 1.13e+05]" in refused(hello(spread=spread))
