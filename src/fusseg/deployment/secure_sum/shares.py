"""Shares of each site's secrets, sealed for every other site, and which of them a site reveals.

A site has two secrets in a sum: the seed of its own mask, and the private key of its masks with
others. Once masked terms have arrived, `needed` sites together can reveal the seed of each site
whose term is in the sum, or the key of each site whose term is not. No site ever reveals both of
one site. As more than half of all sites are needed, the server cannot get both from different
sites, whatever it tells them.
"""

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.pair_keys import KEY_BYTES, PairKeys, PublicKeys, agree

_HALF = 16
"""Bytes that Shamir's scheme shares at once, over a field of 2^128 elements."""
_NONCE = bytes(12)
"""Each key seals one message, so there is nothing to tell apart."""


@dataclass(frozen=True)
class Shares:
    """What a site holds of the secrets of another."""

    seed: bytes = field(repr=False)
    masking: bytes = field(repr=False)


@dataclass(frozen=True)
class Dealt:
    """A site's own seed, and what it sends to the others by way of the server."""

    seed: bytes = field(repr=False)
    """Stays at the site."""
    commitment: bytes
    """SHA-256 of the seed, by which the server notices a wrong share."""
    sealed: Mapping[str, bytes]
    """Shares that only the site of this name can read."""


def deal(
    site: str, own: PairKeys, keys: Mapping[str, PublicKeys], sum_id: bytes, needed: int
) -> Dealt:
    """Draw a site's seed and split both secrets among all sites, itself included.

    Args:
        site: Name of the site.
        own: Its private keys.
        keys: Public keys of all sites of the sum, sorted by name.
        sum_id: Identifier of the sum.
        needed: Number of shares that reveal a secret.
    """
    seed = secrets.token_bytes(KEY_BYTES)
    seeds, maskings = (_split(secret, len(keys), needed) for secret in (seed, own.masking))
    sealed = {}
    for place, (other, public) in enumerate(keys.items()):
        cipher = _cipher(own, public, sum_id, site, other)
        sealed[other] = cipher.encrypt(_NONCE, seeds[place] + maskings[place], None)
    return Dealt(seed, hashlib.sha256(seed).digest(), sealed)


def open_shares(
    site: str,
    own: PairKeys,
    keys: Mapping[str, PublicKeys],
    sealed: Mapping[str, bytes],
    sum_id: bytes,
) -> dict[str, Shares]:
    """Open the shares that other sites have sealed for this one.

    Args:
        site: Name of the site.
        own: Its private keys.
        keys: Public keys of all sites of the sum.
        sealed: Sealed shares by the site that dealt them.
        sum_id: Identifier of the sum.

    Raises:
        FederationError: If one was changed on its way, or its site is not of the sum.
    """
    found = {}
    for other, content in sealed.items():
        if other not in keys:
            raise FederationError(f"the server passed on shares of {other!r}, which takes no part")
        try:
            plain = _cipher(own, keys[other], sum_id, other, site).decrypt(_NONCE, content, None)
        except InvalidTag:
            plain = b""
        if len(plain) != 2 * KEY_BYTES:
            raise FederationError(
                f"the shares of {other!r} cannot be opened: they were changed on their way"
            )
        found[other] = Shares(plain[:KEY_BYTES], plain[KEY_BYTES:])
    return found


def reveal(
    site: str, shares: Mapping[str, Shares], summed: Collection[str], needed: int
) -> dict[str, bytes]:
    """Choose what a site reveals: of each site in the sum the seed, of every other one the key.

    A site does this once for each sum, and keeps no share afterwards.

    Args:
        site: Name of the site.
        shares: Shares by the site that dealt them.
        summed: Sites whose masked terms are in the sum, as the server says.
        needed: Smallest number of sites in a sum.

    Raises:
        FederationError: If there are too few, the site's own term is not in the sum, or a site has
            dealt no shares.
    """
    if len(set(summed)) < needed:
        raise FederationError(
            f"the server has terms of {len(set(summed))} sites, but privacy.threshold asks for at "
            f"least {needed}; this site reveals nothing"
        )
    if site not in summed:
        raise FederationError("the server left out this site's term; it reveals nothing")
    strangers = sorted(set(summed) - shares.keys())
    if strangers:
        raise FederationError(f"the server named {strangers[0]!r}, which has dealt no shares")
    return {other: held.seed if other in summed else held.masking for other, held in shares.items()}


def recover(revealed: Mapping[int, bytes], needed: int) -> bytes:
    """Recover a secret from shares of it (Shamir, 1979).

    Args:
        revealed: Shares by the number of their site, from 1.
        needed: Number of shares that reveal it.

    Raises:
        FederationError: If there are too few, or one is of another length.
    """
    # Not at the head of the module: sites that mask nothing do not need it.
    from Crypto.Protocol.SecretSharing import Shamir

    if len(revealed) < needed:
        raise FederationError(f"{needed} shares of a secret are needed, got {len(revealed)}")
    used = sorted(revealed.items())[:needed]
    if any(len(share) != KEY_BYTES for _, share in used):
        raise FederationError("a share of a secret has another length")
    return b"".join(
        Shamir.combine([(place, share[begin : begin + _HALF]) for place, share in used], ssss=False)
        for begin in (0, _HALF)
    )


def _split(secret: bytes, count: int, needed: int) -> list[bytes]:
    """Split a secret into shares, of which `needed` reveal it and fewer tell nothing."""
    from Crypto.Protocol.SecretSharing import Shamir

    halves = [
        dict(Shamir.split(needed, count, secret[begin : begin + _HALF], ssss=False))
        for begin in (0, _HALF)
    ]
    return [b"".join(half[place] for half in halves) for place in range(1, count + 1)]


def _cipher(
    own: PairKeys, other: PublicKeys, sum_id: bytes, dealer: str, receiver: str
) -> ChaCha20Poly1305:
    key = agree(own.sealing, other.sealing, "seal", sum_id, dealer, receiver)
    return ChaCha20Poly1305(key)
