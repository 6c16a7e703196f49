import random
from statistics import stdev

import pytest

from fusseg.bench.statistics import paired_difference, spread


def test_spread_is_mean_and_sample_standard_deviation():
    # Deviations -1, 0, 1: sum of squares 2 over n - 1 = 2.
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.std, found.count) == (2.0, 1.0, 3)


def test_one_value_has_no_spread():
    assert spread([0.25]).std is None


def test_paired_difference_has_the_t_interval_of_its_mean():
    # Differences 1, 2, 3, 6: mean 3, sum of squares 14, std sqrt(14 / 3), standard error std / 2.
    # The tables of Student's t: 3.182 at 3 degrees of freedom.
    difference = paired_difference(
        {0: 2.0, 1: 4.0, 2: 6.0, 3: 10.0}, {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    )
    assert difference.mean == 3.0
    assert difference.margin == pytest.approx(3.182 * (14 / 3) ** 0.5 / 2, rel=2e-4)
    assert difference.count == 4


@pytest.mark.parametrize(
    ("num_seeds", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)]
)
def test_few_seeds_widen_the_interval_as_in_the_tables_of_students_t(num_seeds, quantile):
    values = {seed: float(seed % 2) for seed in range(num_seeds)}
    found = paired_difference(values, dict.fromkeys(values, 0.0))
    error = stdev(values.values()) / num_seeds**0.5
    assert found.margin / error == pytest.approx(quantile, rel=3e-4)


def test_the_interval_covers_the_true_difference_in_95_of_100_draws():
    draws = random.Random(0)
    inside = 0
    for _ in range(2000):
        values = {seed: draws.gauss(2.0, 1.0) for seed in range(3)}
        found = paired_difference(values, dict.fromkeys(values, 0.0))
        inside += abs(found.mean - 2.0) <= found.margin
    # Two standard errors would cover 82 of 100.
    assert 0.935 < inside / 2000 < 0.965


def test_only_seeds_of_both_rows_are_compared():
    difference = paired_difference({0: 1.0, 1: 5.0, 2: 9.0}, {1: 4.0, 3: 0.0})
    assert (difference.mean, difference.margin, difference.count) == (1.0, None, 1)


def test_rows_without_a_common_seed_have_no_difference():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
