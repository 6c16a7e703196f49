"""Secret sharing against pycryptodome, share by share."""

import secrets

import pytest
from Crypto.Protocol.SecretSharing import Shamir

from fusseg.deployment.secure_sum.shamir import combine, split

SIZES = [(1, 1), (2, 2), (3, 2), (7, 5), (130, 87)]


@pytest.mark.parametrize(("count", "needed"), SIZES)
def test_pycryptodome_combines_the_shares(count, needed):
    secret = secrets.token_bytes(16)
    shares = split(secret, count, needed)
    last = [*enumerate(shares, start=1)][-needed:]
    assert Shamir.combine(last, ssss=False) == secret


@pytest.mark.parametrize(("count", "needed"), [size for size in SIZES if size[1] > 1])
def test_shares_of_pycryptodome_are_combined(count, needed):
    secret = secrets.token_bytes(16)
    shares = dict(Shamir.split(needed, count, secret, ssss=False))
    first = {place: shares[place] for place in range(1, needed + 1)}
    assert combine(first) == secret
    del first[1]
    assert combine(first) != secret


def test_secrets_of_several_elements_are_shared_element_by_element():
    secret = secrets.token_bytes(64)
    shares = split(secret, 5, 3)
    for begin in range(0, 64, 16):
        held = [(place + 1, shares[place][begin : begin + 16]) for place in (0, 2, 4)]
        assert Shamir.combine(held, ssss=False) == secret[begin : begin + 16]
    assert combine({place + 1: shares[place] for place in (0, 2, 4)}) == secret
