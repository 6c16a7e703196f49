"""Draws from the discrete Gaussian, and the exact trials that they are made of."""

import numpy as np
import pytest
from scipy.stats import binomtest, chi2, kstest, norm

from fusseg.federation import discrete_gaussian as drawing
from fusseg.federation.discrete_gaussian import SCALE_BITS, discrete_gaussian

MANY = 200_000
SURE = 1e-6
"""Level of the tests: random draws fail one in a million times."""


def test_draws_are_normal_with_the_stated_scale():
    drawn = discrete_gaussian(MANY)
    assert drawn.dtype == np.int64
    assert kstest(drawn / 2.0**SCALE_BITS, norm.cdf).pvalue > SURE
    # A continuous draw that was scaled would not fill the lowest bits evenly.
    counts = np.bincount(drawn & 255, minlength=256)
    expected = MANY / 256
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - SURE, 255)


def test_no_two_calls_draw_the_same():
    assert not np.array_equal(discrete_gaussian(8), discrete_gaussian(8))


@pytest.mark.parametrize("exponent", [0, 1, 5, 16, 40])
def test_trials_succeed_with_the_exponential_of_minus_their_exponent(exponent):
    passed = drawing._succeed(np.full(MANY, exponent), 4)
    expected = float(np.exp(-exponent / 16))
    assert binomtest(int(passed.sum()), MANY, expected).pvalue > SURE


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_one_in_a_number_succeeds(number):
    passed = int(drawing._one_in(number, MANY).sum())
    assert binomtest(passed, MANY, 1 / number).pvalue > SURE


def test_the_distribution_is_that_of_the_definition_at_a_small_scale(monkeypatch):
    """Chi-squared test against the probabilities themselves, at a scale of 4."""
    monkeypatch.setattr(drawing, "SCALE_BITS", 2)
    monkeypatch.setattr(drawing, "_SCALE", 4)
    drawn = discrete_gaussian(MANY)
    values = np.arange(-14, 15)
    weights = np.exp(-(np.arange(-60, 61) ** 2) / 32.0)
    expected = MANY * np.exp(-(values**2) / 32.0) / weights.sum()
    counts = np.array([(drawn == value).sum() for value in values])
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - SURE, len(values) - 1)
