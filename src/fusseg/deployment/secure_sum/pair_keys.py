"""The keys of the sums of one session: each site's key pairs, signed, and what pairs agree on.

A session holds the sums of one round. Every sum has key pairs of its own (X25519, and Ed25519 for
signatures that only this sum needs), so that a key which is revealed after one sum tells nothing
about another. A site signs the public keys of a session with the key it joined with, and every
other site checks the signature against its own roster: the server cannot stand in for a site.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from fusseg.core.errors import FederationError

KEY_BYTES = 32
"""Length of public and private keys and of secrets."""
_PURPOSE = b"fusseg secure sum 1"


@dataclass(frozen=True)
class PairKeys:
    """A site's private keys of one sum; they never leave the site, but for shares of `masking`."""

    masking: bytes = field(repr=False)
    """Agrees on masks. The others can recover it together if the site does not finish the sum."""
    sealing: bytes = field(repr=False)
    """Agrees on keys that seal shares; nobody recovers it."""
    signing: bytes = field(repr=False)
    """Signs over which sites the sum is (Ed25519); nobody recovers it."""


@dataclass(frozen=True)
class PublicKeys:
    """A site's public keys of one sum."""

    masking: bytes
    sealing: bytes
    signing: bytes

    @property
    def joined(self) -> bytes:
        """All keys in a row."""
        return self.masking + self.sealing + self.signing


@dataclass(frozen=True)
class SignedKeys:
    """A site's public keys of a session, as other sites receive them from the server."""

    site: str
    keys: tuple[PublicKeys, ...]
    """One for each sum of the session."""
    signature: bytes
    """By the site's own key, over the session, its name and all keys (ECDSA, SHA-384)."""


def name_sum(*names: str | int) -> bytes:
    """Make the identifier of a session or a sum from whatever tells it from all others.

    >>> name_sum("run", 1, "lloyd") == name_sum("run", 1, "lloyd")
    True
    >>> name_sum("run", "1") == name_sum("ru", "n1")
    False
    """
    digest = hashlib.sha256(_PURPOSE)
    for name in names:
        text = str(name).encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()


def new_keys(
    site: str, key: ec.EllipticCurvePrivateKey, session_id: bytes, sums: int
) -> tuple[tuple[PairKeys, ...], SignedKeys]:
    """Draw a site's keys of a session from the system's secure generator.

    Args:
        site: Name of the site.
        key: The key that it joined with.
        session_id: Identifier of the session.
        sums: Number of its sums.
    """
    private, public = [], []
    for _ in range(sums):
        drawn = (
            X25519PrivateKey.generate(),
            X25519PrivateKey.generate(),
            Ed25519PrivateKey.generate(),
        )
        private.append(PairKeys(*(one.private_bytes_raw() for one in drawn)))
        public.append(PublicKeys(*(one.public_key().public_bytes_raw() for one in drawn)))
    signature = key.sign(_signed(session_id, site, public), ec.ECDSA(hashes.SHA384()))
    return tuple(private), SignedKeys(site, tuple(public), signature)


def keys_are_signed(keys: SignedKeys, line: str, session_id: bytes) -> bool:
    """Tell whether a site's public keys of a session are signed by its own key.

    Args:
        keys: Its public keys, with the signature.
        line: Its own public key in OpenSSH form.
        session_id: Identifier of the session.
    """
    known = load_ssh_public_key(line.encode())
    assert isinstance(known, ec.EllipticCurvePublicKey)
    signed = _signed(session_id, keys.site, keys.keys)
    try:
        known.verify(keys.signature, signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def check_keys(
    received: Sequence[SignedKeys],
    roster: Mapping[str, str],
    session_id: bytes,
    needed: int,
) -> dict[str, tuple[PublicKeys, ...]]:
    """Check the public keys that the server passed on, at a site.

    Args:
        received: Keys of the sites that take part.
        roster: Public keys of all sites in OpenSSH form, by name, from the site's own file.
        session_id: Identifier of the session.
        needed: Smallest number of sites.

    Returns:
        The keys of each sum, by site, sorted.

    Raises:
        FederationError: If there are too few, a site is not on the roster or occurs twice, or a
            signature does not belong to its key and this session.
    """
    if len(received) < needed:
        raise FederationError(
            f"the server named {len(received)} sites for a sum, but privacy.threshold asks for at "
            f"least {needed}; this site takes no part in it"
        )
    found: dict[str, tuple[PublicKeys, ...]] = {}
    for one in sorted(received, key=lambda keys: keys.site):
        if one.site not in roster:
            raise FederationError(
                f"the server named {one.site!r}, which is not on this site's roster; add its "
                "public key to the file behind --roster, if the site belongs to the federation"
            )
        if one.site in found:
            raise FederationError(f"the server named {one.site!r} twice")
        if not keys_are_signed(one, roster[one.site], session_id):
            raise FederationError(
                f"the keys of {one.site!r} are not signed by its key on this site's roster; if it "
                "has a new key, bring the file behind --roster up to date"
            )
        found[one.site] = one.keys
    return found


def agree(private: bytes, public: bytes, *purpose: str | bytes) -> bytes:
    """Compute the secret that two sites share, for one purpose.

    Args:
        private: A private key.
        public: The public key of the other site.
        purpose: Tells this secret from others of the same pair.

    Returns:
        32 bytes (HKDF, SHA-256).

    Raises:
        FederationError: If the public key is no point that can be agreed with.
    """
    try:
        point = X25519PublicKey.from_public_bytes(public)
        shared = _load(private).exchange(point)
    except ValueError as error:  # also if the result is zero, as with points of small order
        raise FederationError("a site sent a public key that cannot be used") from error
    words = [one.encode() if isinstance(one, str) else one for one in purpose]
    info = b"".join(len(word).to_bytes(8, "big") + word for word in (_PURPOSE, *words))
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(shared)


@lru_cache(maxsize=4)
def _load(private: bytes) -> X25519PrivateKey:
    """Load a private key, once for all other sites: it takes as long as an agreement."""
    return X25519PrivateKey.from_private_bytes(private)


def public_of(private: bytes) -> bytes:
    """Compute the public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _signed(session_id: bytes, site: str, keys: Sequence[PublicKeys]) -> bytes:
    name = site.encode()
    joined = b"".join(one.joined for one in keys)
    return session_id + len(name).to_bytes(8, "big") + name + joined
