"""Numbers as integers modulo 2^64, by hand."""

import pytest
import torch

from fusseg.core.errors import FederationError
from fusseg.federation.fixed_point import (
    join_parts,
    most_of,
    split_parts,
    to_integers,
    to_numbers,
)


def test_numbers_are_rounded_to_the_resolution_and_back():
    values = torch.tensor([0.0, 0.25, -0.25, 0.375, 3.0]).double()
    integers = to_integers(values, resolution=2, most=8.0)
    assert integers.tolist() == [0, 1, -1, 2, 12]
    assert to_numbers(integers, 2).tolist() == [0.0, 0.25, -0.25, 0.5, 3.0]


def test_a_sum_of_the_largest_terms_does_not_overflow():
    for terms in (1, 2, 3, 100):
        most = most_of(24, terms)
        largest = torch.tensor([most]).double().nextafter(torch.zeros(1).double())
        one = to_integers(largest, 24, most)
        assert int(one) * terms <= 2**63
        with pytest.raises(FederationError, match="too large to be summed in secret"):
            to_integers(torch.tensor([most]).double(), 24, most)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(FederationError, match="too large"):
        to_integers(torch.tensor([value]).double(), 24, 8.0)


def test_parts_are_joined_by_name_and_split_into_their_shapes():
    parts = {"b": torch.arange(4).view(2, 2), "a": torch.tensor(9)}
    row = join_parts(parts)
    assert row.tolist() == [9, 0, 1, 2, 3]
    found = split_parts(row, {"a": (), "b": (2, 2)})
    assert found["a"].tolist() == 9
    assert found["b"].tolist() == [[0, 1], [2, 3]]
