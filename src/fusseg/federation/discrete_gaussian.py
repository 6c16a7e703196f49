"""Exact draws from the discrete Gaussian, with the operating system's secure generator.

The algorithm of Canonne, Kamath and Steinke (2020, "The Discrete Gaussian for Differential
Privacy", algorithms 1 to 3), for many numbers at once. All probabilities are exact: nothing is
computed in floating point, whose gaps would tell the numbers that noise was added to. The library
that has this sampler (OpenDP) takes 265 MB.
"""

import os

import numpy as np
from jaxtyping import Bool, Int64, UInt64

SCALE_BITS = 20
"""The scale of all draws is 2 to this power: a power of two keeps all arithmetic in 64 bits."""
_SCALE = 2**SCALE_BITS
_WORD = 8
"""Bytes of a random word."""


def discrete_gaussian(count: int) -> Int64[np.ndarray, " count"]:
    """Draw integers with probabilities proportional to exp(-x^2 / (2 * 2^40)).

    Their standard deviation is 2^20. Of sums of as many as there are sites, nothing can be told
    from draws of the larger scale (Kairouz et al., 2021, theorem 1: the difference is below
    exp(-10^12)).

    Args:
        count: Number of draws.
    """
    drawn = np.zeros(count, dtype=np.int64)
    missing = np.arange(count)
    while len(missing):
        found = _discrete_laplace(len(missing))
        # Squared distance to the scale, in units of 1 / (2 * scale^2).
        exponent = (np.abs(found) - _SCALE) ** 2
        accepted = _succeed(exponent, 2 * SCALE_BITS + 1)
        drawn[missing[accepted]] = found[accepted]
        missing = missing[~accepted]
    return drawn


def _discrete_laplace(count: int) -> Int64[np.ndarray, " count"]:
    """Draw integers with probabilities proportional to exp(-|x| / scale)."""
    drawn = np.zeros(count, dtype=np.int64)
    missing = np.arange(count)
    while len(missing):
        rest = (_random_words(len(missing)) & np.uint64(_SCALE - 1)).astype(np.int64)
        kept = np.flatnonzero(_succeed_below_one(rest, SCALE_BITS))
        whole = _count_successes(len(kept))
        values = rest[kept] + _SCALE * whole
        negative = (_random_words(len(kept)) & np.uint64(1)).astype(bool)
        # Zero would be drawn with both signs.
        fine = ~(negative & (values == 0))
        values = np.where(negative, -values, values)
        places = missing[kept[fine]]
        drawn[places] = values[fine]
        missing = np.setdiff1d(missing, places, assume_unique=True)
    return drawn


def _count_successes(count: int) -> Int64[np.ndarray, " count"]:
    """Count successes of probability exp(-1) before the first failure."""
    found = np.zeros(count, dtype=np.int64)
    active = np.arange(count)
    while len(active):
        active = active[_succeed_below_one(np.ones(len(active), dtype=np.int64), 0)]
        found[active] += 1
    return found


def _succeed(exponent: Int64[np.ndarray, " count"], bits: int) -> Bool[np.ndarray, " count"]:
    """Succeed with probability exp(-exponent / 2^bits)."""
    whole, rest = exponent >> bits, exponent & ((1 << bits) - 1)
    found = _succeed_below_one(rest, bits)
    left = np.flatnonzero(found & (whole > 0))
    whole = whole.copy()
    while len(left):
        passed = _succeed_below_one(np.ones(len(left), dtype=np.int64), 0)
        found[left[~passed]] = False
        left = left[passed]
        whole[left] -= 1
        left = left[whole[left] > 0]
    return found


def _succeed_below_one(
    exponent: Int64[np.ndarray, " count"], bits: int
) -> Bool[np.ndarray, " count"]:
    """Succeed with probability exp(-exponent / 2^bits), for exponents up to 2^bits.

    The number of the first failure of trials with probabilities exponent / (2^bits k) is odd with
    this probability (algorithm 1).
    """
    first = np.zeros(len(exponent), dtype=np.int64)
    active, trial = np.arange(len(exponent)), 0
    while len(active):
        trial += 1
        below = (_random_words(len(active)) & np.uint64((1 << bits) - 1)).astype(np.int64)
        passed = (below < exponent[active]) & _one_in(trial, len(active))
        first[active[~passed]] = trial
        active = active[passed]
    odd: np.ndarray = first % 2 == 1
    return odd


def _one_in(number: int, count: int) -> Bool[np.ndarray, " count"]:
    """Succeed with probability 1 / number."""
    bound = 2**64 // number * number
    words = _random_words(count)
    if bound < 2**64:
        while (beyond := words >= np.uint64(bound)).any():
            words[beyond] = _random_words(int(beyond.sum()))
    divided: np.ndarray = words % np.uint64(number) == 0
    return divided


def _random_words(count: int) -> UInt64[np.ndarray, " count"]:
    return np.frombuffer(os.urandom(_WORD * count), dtype=np.uint64).copy()
