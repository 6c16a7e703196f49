import math
from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.federation.summation import RunningSum

numbers = st.floats(-1e6, 1e6, width=32).filter(lambda value: value == 0 or abs(value) > 1e-6)
terms = st.lists(st.tuples(numbers, st.integers(1, 10_000_000)), min_size=1, max_size=30)


def total_of(parts):
    running = RunningSum({"w": torch.zeros(1)})
    for value, factor in parts:
        running.add({"w": torch.tensor([value])}, factor)
    return float(running.total()["w"])


@given(parts=terms, data=st.data())
def test_the_order_of_the_terms_does_not_show_in_any_bit(parts, data):
    assert total_of(parts) == total_of(data.draw(st.permutations(parts)))


@given(parts=terms)
def test_the_sum_is_that_of_the_fractions_rounded_once(parts):
    exact = sum(Fraction(value) * factor for value, factor in parts)
    assert total_of(parts) == float(exact)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_sums_of_float64_are_those_of_the_standard_library(values):
    running = RunningSum({"w": torch.zeros(1, dtype=torch.float64)})
    for value in values:
        running.add({"w": torch.tensor([value], dtype=torch.float64)})
    largest = max(map(abs, values))
    found = float(running.total()["w"])
    assert math.isclose(found, math.fsum(values), rel_tol=1e-15, abs_tol=1e-28 * largest)
