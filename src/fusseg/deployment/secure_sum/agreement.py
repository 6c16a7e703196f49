"""Which sites a sum is over: signed by each of them, before any of them reveals anything.

Otherwise a server could tell each site another set. Each share it got would be harmless, but all of
them together could give both secrets of one site, and with them its term. A site signs the sites
that have dealt shares when it sends its term, and once more if the terms of some did not arrive; it
reveals for the set that it signed last. As more than half of all sites have to sign, no two sets
can both be signed by enough (Bonawitz et al., 2017, section 4: consistency check).
"""

from collections.abc import Collection, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.pair_keys import PairKeys, PublicKeys, name_sum

SIGNATURE_BYTES = 64


def sign_set(own: PairKeys, sum_id: bytes, summed: Collection[str]) -> bytes:
    """Sign over which sites a sum is.

    Args:
        own: The site's private keys of the sum.
        sum_id: Identifier of the sum.
        summed: The sites.
    """
    key = Ed25519PrivateKey.from_private_bytes(own.signing)
    return key.sign(_signed(sum_id, summed))


def signers_of(
    signatures: Mapping[str, bytes],
    keys: Mapping[str, PublicKeys],
    sum_id: bytes,
    summed: Collection[str],
) -> list[str]:
    """List the sites of a sum that have signed its set, sorted.

    Args:
        signatures: By the site that is said to have signed.
        keys: Public keys of the sum, by site.
        sum_id: Identifier of the sum.
        summed: Sites whose masked terms are in the sum.
    """
    content = _signed(sum_id, summed)
    return sorted(
        site
        for site, signature in signatures.items()
        if site in summed and site in keys and _is_signed(content, signature, keys[site].signing)
    )


def check_agreed(
    signatures: Mapping[str, bytes],
    keys: Mapping[str, PublicKeys],
    sum_id: bytes,
    summed: Collection[str],
    needed: int,
) -> None:
    """Refuse a set that too few sites have signed.

    Args:
        signatures: By the site that is said to have signed.
        keys: Public keys of the sum, by site, as `check_keys` has checked them.
        sum_id: Identifier of the sum.
        summed: Sites whose masked terms are in the sum, as the server says.
        needed: Smallest number of sites that must have signed.

    Raises:
        FederationError: If fewer have.
    """
    found = signers_of(signatures, keys, sum_id, summed)
    if len(found) < needed:
        raise FederationError(
            f"{len(found)} sites have signed that the sum is over {', '.join(sorted(summed))}, but "
            f"privacy.threshold asks for at least {needed}; this site reveals nothing"
        )


def _signed(sum_id: bytes, summed: Collection[str]) -> bytes:
    return name_sum("set", sum_id.hex(), *sorted(summed))


def _is_signed(content: bytes, signature: bytes, public: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):  # the latter if the key is no point of the curve
        return False
    return True
