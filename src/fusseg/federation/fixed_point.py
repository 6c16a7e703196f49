"""Numbers as integers modulo 2^64, so that sums are exact, whatever their order, and can be masked.

A number is rounded to a multiple of the resolution, a power of two. A sum of n numbers is within
n / 2 resolutions of the sum of the numbers, and every order of adding gives the same bits.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fusseg.core.errors import FederationError

_BITS = 63
"""Bits of an integer besides its sign."""


def most_of(resolution: int, terms: int) -> float:
    """Compute the bound of each term for which no sum can overflow.

    >>> most_of(resolution=24, terms=4)
    137438953472.0

    Args:
        resolution: Binary places after the point.
        terms: Number of terms of a sum.
    """
    return 2.0 ** (_BITS - resolution - math.ceil(math.log2(max(terms, 1))))


def to_integers(values: Float64[Tensor, "*_"], resolution: int, most: float) -> Int64[Tensor, "*_"]:
    """Round numbers to integers of 2^-resolution, halves to even.

    >>> to_integers(torch.tensor([0.75, -1.0]).double(), resolution=1, most=8.0)
    tensor([ 2, -2])

    Args:
        values: Finite numbers.
        resolution: Binary places after the point.
        most: Largest absolute value, as `most_of` computes it.

    Raises:
        FederationError: If a number is beyond the bound: sums could overflow.
    """
    if not bool((values.abs() < most).all()):
        # Without the number: a site may send this text to the server.
        raise FederationError(
            "a number is too large to be summed in secret with a resolution of "
            f"2^-{resolution}, which allows less than {most:.3g}; set privacy.resolution to fewer "
            "places"
        )
    return (values * 2.0**resolution).round().to(torch.int64)


def to_numbers(integers: Int64[Tensor, "*_"], resolution: int) -> Float64[Tensor, "*_"]:
    """Turn sums of integers back into numbers.

    >>> to_numbers(torch.tensor([3]), resolution=1)
    tensor([1.5000], dtype=torch.float64)
    """
    return integers.double() * 2.0**-resolution


def join_parts(parts: Mapping[str, Int64[Tensor, "..."]]) -> Int64[Tensor, " numbers"]:
    """Join the integers of all parts into one row, sorted by name."""
    return torch.cat([parts[name].flatten() for name in sorted(parts)])


def count_numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the integers of a row.

    >>> count_numbers({"sums": (2, 3), "count": ()})
    7
    """
    return sum(map(math.prod, shapes.values()))


def split_parts(
    row: Int64[Tensor, " numbers"], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Int64[Tensor, "..."]]:
    """Split a row that `join_parts` made.

    >>> split_parts(torch.tensor([1, 2, 3]), {"b": (1,), "a": (2,)})
    {'a': tensor([1, 2]), 'b': tensor([3])}

    Args:
        row: Integers of all parts.
        shapes: Shape of each part.
    """
    sizes = [math.prod(shapes[name]) for name in sorted(shapes)]
    pieces = torch.split(row, sizes)
    return {
        name: piece.view(shapes[name]) for name, piece in zip(sorted(shapes), pieces, strict=True)
    }
