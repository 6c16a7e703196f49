"""Shares of each site's secrets, sealed for every other site, and which of them a site reveals.

A site has two secrets in a sum: the seed of its own mask, and the private key of its masks with
others. Once masked terms have arrived, `needed` sites together can reveal the seed of each site
whose term is in the sum, or the key of each site whose term is not. No site ever reveals both of
one site, and none reveals anything before `needed` sites have signed that the sum is over the same
sites. As more than half of all sites are needed and each signs for one set, a server that tells
sites different things gets nothing (`agreement.py`).
"""

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.pair_keys import KEY_BYTES, PairKeys, PublicKeys, agree
from fusseg.deployment.secure_sum.shamir import combine, split

SEALED_BYTES = 2 * KEY_BYTES + 16
"""Length of sealed shares: two shares, and the cipher's tag."""
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
    shares = split(seed + own.masking, len(keys), needed)
    sealed = {}
    for place, (other, public) in enumerate(keys.items()):
        cipher = _cipher(own, public, sum_id, site, other)
        sealed[other] = cipher.encrypt(_NONCE, shares[place], None)
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


def check_summed(site: str, dealers: Collection[str], summed: Collection[str], needed: int) -> None:
    """Refuse a set of sites that a site neither signs nor reveals anything for.

    Args:
        site: Name of the site.
        dealers: Sites that have dealt it shares.
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
    strangers = sorted(set(summed).difference(dealers))
    if strangers:
        raise FederationError(f"the server named {strangers[0]!r}, which has dealt no shares")


def reveal(shares: Mapping[str, Shares], summed: Collection[str]) -> dict[str, bytes]:
    """Choose what a site reveals: of each site in the sum the seed, of every other one the key.

    A site does this once for each sum, and keeps no share afterwards.

    Args:
        shares: Shares by the site that dealt them.
        summed: Sites whose masked terms are in the sum, as `check_summed` and `check_agreed` allow.
    """
    return {other: held.seed if other in summed else held.masking for other, held in shares.items()}


def recover(
    revealed: Mapping[int, Mapping[str, bytes]],
    owners: Sequence[str],
    needed: int,
    fits: Callable[[str, bytes], bool],
) -> dict[str, bytes]:
    """Recover one secret of each site from what others have revealed.

    If more than `needed` sites have revealed, one that lies is left out.

    Args:
        revealed: By the number of the revealing site, from 1: a share by the site that dealt it.
        owners: The sites that have dealt shares.
        needed: Number of shares that reveal a secret.
        fits: Tells whether a secret is that of a site.

    Raises:
        FederationError: If too few sites have revealed a share of every secret, or the shares of
            one do not fit.
    """
    joined = {}
    for place, shares in sorted(revealed.items()):
        found = [shares.get(owner, b"") for owner in owners]
        if all(len(share) == KEY_BYTES for share in found):
            joined[place] = b"".join(found)
    if len(joined) < needed:
        raise FederationError(
            f"{needed} sites have to reveal shares of all secrets, {len(joined)} have"
        )
    wrong = ""
    for chosen in _choices(sorted(joined), needed):
        secret = combine({place: joined[place] for place in chosen})
        secrets_of = {
            owner: secret[number * KEY_BYTES : (number + 1) * KEY_BYTES]
            for number, owner in enumerate(owners)
        }
        unfit = [owner for owner, one in secrets_of.items() if not fits(owner, one)]
        if not unfit:
            return secrets_of
        wrong = wrong or unfit[0]
    raise FederationError(
        f"the shares of {wrong!r} do not reveal its secret: it has dealt wrong ones, or a site has "
        "revealed a wrong one; the sum is lost"
    )


def _choices(places: Sequence[int], needed: int) -> Iterator[Sequence[int]]:
    """Choose whose shares to combine: the first ones, and then without each of these."""
    yield places[:needed]
    if len(places) > needed:
        for left_out in places[:needed]:
            yield [place for place in places if place != left_out][:needed]


def _cipher(
    own: PairKeys, other: PublicKeys, sum_id: bytes, dealer: str, receiver: str
) -> ChaCha20Poly1305:
    key = agree(own.sealing, other.sealing, "seal", sum_id, dealer, receiver)
    return ChaCha20Poly1305(key)
