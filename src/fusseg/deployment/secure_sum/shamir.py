"""Shamir's secret sharing over the field of 2^128 elements (Shamir, 1979).

The shares are those of pycryptodome's `Shamir.split(..., ssss=False)`, which takes half a second
where this takes milliseconds: here the elements of all secrets are slots of one long integer, and
are multiplied at once.
"""

import secrets
from collections.abc import Collection, Mapping

ELEMENT_BYTES = 16
"""Length of an element of the field; secrets and shares consist of any number of elements."""
_BITS = 8 * ELEMENT_BYTES
_TAPS = (0, 1, 2, 7)
_POLYNOMIAL = sum(1 << power for power in (*_TAPS, _BITS))
"""x^128 + x^7 + x^2 + x + 1, which defines the field."""


def split(secret: bytes, count: int, needed: int) -> list[bytes]:
    """Split a secret into the shares of sites 1 to `count`; fewer than `needed` tell nothing.

    Args:
        secret: Whole elements.
        count: Number of shares.
        needed: Number of shares that reveal the secret.
    """
    elements = len(secret) // ELEMENT_BYTES
    numbers = [_pack(secrets.token_bytes(len(secret))) for _ in range(needed - 1)]
    numbers.append(_pack(secret))
    shares = []
    for place in range(1, count + 1):
        value = 0
        for number in numbers:
            value = _reduce(_multiply(value, place), elements) ^ number
        shares.append(_unpack(value, elements))
    return shares


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Compute the secret from shares of it, which must be enough.

    >>> parts = split(b"0123456789abcdef", count=3, needed=2)
    >>> combine({1: parts[0], 3: parts[2]})
    b'0123456789abcdef'

    Args:
        shares: Shares by the number of their site, from 1; all of one length.
    """
    elements = len(next(iter(shares.values()))) // ELEMENT_BYTES
    value = 0
    for place, weight in _weights(shares).items():
        value ^= _multiply(_pack(shares[place]), weight)
    return _unpack(_reduce(value, elements), elements)


def _weights(places: Collection[int]) -> dict[int, int]:
    """Weigh the shares in the value at 0 of the polynomial through them (Lagrange)."""
    weights = {}
    for place in places:
        above = below = 1
        for other in places:
            if other != place:
                above = _reduce(_multiply(above, other), 1)
                below = _reduce(_multiply(below, place ^ other), 1)
        weights[place] = _reduce(_multiply(above, _invert(below)), 1)
    return weights


def _multiply(elements: int, factor: int) -> int:
    """Multiply all elements by one, without reducing the products."""
    products = 0
    while factor:
        if factor & 1:
            products ^= elements
        elements <<= 1
        factor >>= 1
    return products


def _reduce(products: int, elements: int) -> int:
    """Reduce products to elements of the field."""
    low = _pack(b"\xff" * (ELEMENT_BYTES * elements))
    while high := (products >> _BITS) & low:
        products &= low
        for tap in _TAPS:
            products ^= high << tap
    return products


def _pack(content: bytes) -> int:
    """Write elements, each in a slot, as one integer."""
    return int.from_bytes(
        b"".join(
            bytes(ELEMENT_BYTES) + content[begin : begin + ELEMENT_BYTES]
            for begin in range(0, len(content), ELEMENT_BYTES)
        ),
        "big",
    )


def _unpack(packed: int, elements: int) -> bytes:
    content = packed.to_bytes(2 * ELEMENT_BYTES * elements, "big")
    slot = 2 * ELEMENT_BYTES
    return b"".join(
        content[begin + ELEMENT_BYTES : begin + slot] for begin in range(0, len(content), slot)
    )


def _invert(element: int) -> int:
    """Compute the inverse of an element other than 0, by Euclid's algorithm on polynomials."""
    left, right, factor, other = element, _POLYNOMIAL, 1, 0
    while left != 1:
        shift = left.bit_length() - right.bit_length()
        if shift < 0:
            left, right, factor, other, shift = right, left, other, factor, -shift
        left ^= right << shift
        factor ^= other << shift
    return factor
