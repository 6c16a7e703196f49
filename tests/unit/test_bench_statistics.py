import pytest

from fusseg.bench.statistics import paired_difference, spread


def test_spread_is_mean_and_sample_standard_deviation():
    # Deviations -1, 0, 1: sum of squares 2 over n - 1 = 2.
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.std, found.count) == (2.0, 1.0, 3)


def test_one_value_has_no_spread():
    assert spread([0.25]).std is None


def test_paired_difference_has_the_standard_error_of_its_mean():
    # Differences 1, 2, 3, 6: mean 3, sum of squares 14, std sqrt(14 / 3), error std / 2.
    difference = paired_difference(
        {0: 2.0, 1: 4.0, 2: 6.0, 3: 10.0}, {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    )
    assert difference.mean == 3.0
    assert difference.error == pytest.approx((14 / 3) ** 0.5 / 2)
    assert difference.count == 4


def test_only_seeds_of_both_rows_are_compared():
    difference = paired_difference({0: 1.0, 1: 5.0, 2: 9.0}, {1: 4.0, 3: 0.0})
    assert (difference.mean, difference.error, difference.count) == (1.0, None, 1)


def test_rows_without_a_common_seed_have_no_difference():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
