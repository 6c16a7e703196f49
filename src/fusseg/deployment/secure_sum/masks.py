"""Masks that hide each site's term and cancel in the sum, over integers modulo 2^64."""

import hashlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from jaxtyping import UInt64

from fusseg.deployment.secure_sum.pair_keys import PairKeys, PublicKeys, agree, public_of
from fusseg.deployment.secure_sum.shares import recover

_NONCE = bytes(16)
"""Each key expands to one mask."""


def mask(
    term: UInt64[np.ndarray, " numbers"],
    site: str,
    own: PairKeys,
    seed: bytes,
    keys: Mapping[str, PublicKeys],
    sum_id: bytes,
) -> UInt64[np.ndarray, " numbers"]:
    """Hide a site's term: add the mask of its seed, and one for each other site.

    Of two sites the first by name adds their common mask and the second subtracts it.

    Args:
        term: Numbers modulo 2^64.
        site: Name of the site.
        own: Its private keys.
        seed: Its seed.
        keys: Public keys of the sites that have dealt shares, this one included.
        sum_id: Identifier of the sum.
    """
    masked: np.ndarray = term + expand(seed, len(term))
    for other, public in keys.items():
        if other != site:
            _add_pair(masked, site, other, own.masking, public.masking, sum_id)
    return masked


def unmask(
    total: UInt64[np.ndarray, " numbers"],
    summed: Collection[str],
    keys: Mapping[str, PublicKeys],
    commitments: Mapping[str, bytes],
    revealed: Mapping[str, Mapping[str, bytes]],
    sum_id: bytes,
    needed: int,
) -> UInt64[np.ndarray, " numbers"]:
    """Remove what does not cancel from a sum of masked terms: the server's side.

    Args:
        total: Sum of the masked terms.
        summed: Sites whose terms it holds.
        keys: Public keys of the sites that took part, sorted by name.
        commitments: Commitments of the seeds of those that have dealt shares.
        revealed: What each site has revealed, by the site and by the owner of the secret.
        sum_id: Identifier of the sum.
        needed: Number of shares that reveal a secret.

    Raises:
        FederationError: If too few sites have revealed a secret, or the shares of one do not fit.
    """
    places = {site: place for place, site in enumerate(keys, start=1)}
    plain = total.copy()
    by_place = {places[site]: found for site, found in revealed.items()}

    def fits(owner: str, secret: bytes) -> bool:
        if owner in summed:
            return hashlib.sha256(secret).digest() == commitments[owner]
        return public_of(secret) == keys[owner].masking

    recovered = recover(by_place, sorted(commitments), needed, fits)
    for owner, secret in recovered.items():
        if owner in summed:
            plain -= expand(secret, len(plain))
            continue
        for site in summed:
            # As the missing site would have done, so that both cancel.
            _add_pair(plain, owner, site, secret, keys[site].masking, sum_id)
    return plain


def expand(secret: bytes, count: int) -> UInt64[np.ndarray, " numbers"]:
    """Expand a secret to numbers that nobody without it can tell from random ones (ChaCha20)."""
    stream = Cipher(ChaCha20(secret, _NONCE), mode=None).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64, copy=False)


def sum_terms(
    terms: Iterator[UInt64[np.ndarray, " numbers"]], count: int
) -> UInt64[np.ndarray, " numbers"]:
    """Add up terms modulo 2^64, in any order.

    >>> sum_terms(iter([np.array([2**63], np.uint64)] * 2), 1)
    array([0], dtype=uint64)
    """
    total = np.zeros(count, dtype=np.uint64)
    for term in terms:
        total += term
    return total


def _add_pair(
    masked: UInt64[np.ndarray, " numbers"],
    site: str,
    other: str,
    private: bytes,
    public: bytes,
    sum_id: bytes,
) -> None:
    """Add the common mask of two sites, or subtract it, in place."""
    secret = agree(private, public, "mask", sum_id, *sorted((site, other)))
    if site < other:
        masked += expand(secret, len(masked))
    else:
        masked -= expand(secret, len(masked))
