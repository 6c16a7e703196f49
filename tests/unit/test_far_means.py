"""Which mean features are refused: by hand, and for honest sites of every kind."""

import pytest
import torch

from fusseg.config.schema import FederationConfig
from fusseg.core.version import VERSION
from fusseg.federation.hello import far_clients, mean_distances
from fusseg.federation.state import Hello

MOST = FederationConfig().max_mean_distance


def hello(name, mean, spread=1.0, count=10):
    total = torch.tensor(mean, dtype=torch.float64) * count
    return Hello(name, 2, total, count, {}, "f" * 64, VERSION, spread)


def test_distance_is_to_the_median_in_units_of_the_median_spread():
    hellos = [
        hello("a", [0.0, 0.0], 2.0),
        hello("b", [1.0, 0.0], 4.0, count=70),
        hello("c", [1.0, 30.0], 1.0),
    ]
    assert mean_distances(hellos) == pytest.approx([0.5, 0.0, 15.0])


def test_of_two_clients_each_is_measured_by_the_other():
    assert mean_distances([hello("a", [3.0], 1.0), hello("b", [-3.0], 12.0)]) == [0.5, 6.0]


def test_a_false_sum_is_named_with_its_distance_and_honest_ones_are_not():
    hellos = [hello("a", [1.0, 2.0]), hello("b", [2.0, 2.0]), hello("liar", [1000.0, 1000.0])]
    far = far_clients(hellos, MOST)
    assert list(far) == ["liar"]
    # To the median (2, 2).
    assert far["liar"] == pytest.approx(998 * 2**0.5)
    assert far_clients(hellos, 0.0) == {}
    assert far_clients(hellos[:2], MOST) == {}


@pytest.mark.parametrize("spread", [1e-9, 1e9])
def test_a_false_spread_beside_a_false_sum_turns_no_honest_client_out(spread):
    hellos = [hello("a", [1.0]), hello("b", [2.0]), hello("liar", [1e4], spread)]
    assert list(far_clients(hellos, MOST)) == ["liar"]


def test_two_liars_of_five_are_found_one_after_the_other():
    hellos = [hello(name, [float(place)]) for place, name in enumerate("abc")]
    hellos += [hello("y", [1e6]), hello("z", [1e4])]
    assert list(far_clients(hellos, MOST)) == ["y", "z"]


def test_the_order_of_the_hellos_does_not_matter():
    hellos = [hello("a", [0.0]), hello("b", [1.0]), hello("y", [1e3]), hello("z", [-1e3])]
    assert far_clients(hellos, MOST) == far_clients(hellos[::-1], MOST)


def test_one_client_has_nobody_to_be_far_from():
    assert far_clients([hello("a", [1e6])], MOST) == {}


def test_images_of_one_even_color_have_no_spread_to_measure_with():
    assert mean_distances([hello("a", [0.0], 0.0), hello("b", [9.0], 0.0)]) == [0.0, 0.0]
