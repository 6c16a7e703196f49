"""Messages of secure sums: public keys, sealed shares, masked terms, and what sites reveal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import UInt64
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import shown
from fusseg.deployment.keys.sites_file import MAX_NAME_LENGTH
from fusseg.deployment.secure_sum.agreement import SIGNATURE_BYTES
from fusseg.deployment.secure_sum.pair_keys import KEY_BYTES, PublicKeys, SignedKeys, name_sum
from fusseg.deployment.secure_sum.shares import SEALED_BYTES, Dealt
from fusseg.deployment.wire.ledger import Field
from fusseg.deployment.wire.packet import Packet, expect_field, take_int, take_word
from fusseg.federation.parts import Part, check_parts

SUM_KEYS: Final = "sum-keys"
SUM_SHARES: Final = "sum-shares"
SUM_HELLO: Final = "sum-hello"
SUM_AGREE: Final = "sum-agree"
SUM_REVEAL: Final = "sum-reveal"
"""Tasks besides those of the rounds: the stages of a sum before and after the masked terms, and
the sum of the hellos."""
MASKED = "sum.masked"
"""Tensor of a masked term."""
AGREED = "sum.agreed"
"""Tensor of signatures over the sites of a sum."""
_KEYS, _SIGNATURE = "sum.keys", "sum.signature"
_COMMITMENTS, _SEALED, _REVEALED = "sum.commitments", "sum.sealed", "sum.revealed"
_WORD = 8
"""Bytes of a word: bytes travel as whole numbers of 64 bits."""
_PUBLIC_BYTES = 3 * KEY_BYTES
_KEYS_SIGNATURE_BYTES = 144
"""Room for the longest signature (NIST P-521), with its length in front."""
_MOST_SITES = 100_000
Kind = Literal["hello", "round"]


@dataclass(frozen=True)
class Session:
    """The sums of one round, or that of the hellos, which have keys in common."""

    run: str
    number: int
    """Number of the session within the run, from 1."""
    kind: Kind
    round_number: int
    """0 for the hellos."""

    @property
    def order(self) -> int:
        """The round, with the hellos before all rounds."""
        return order_of(self.kind, self.round_number)

    @property
    def session_id(self) -> bytes:
        """Identifier of the session."""
        return name_sum(self.run, self.number, self.kind, self.round_number)

    def sum_id(self, place: int) -> bytes:
        """Return the identifier of one of its sums."""
        return name_sum(self.run, self.number, self.kind, self.round_number, place)

    def fields(self) -> dict[str, Field]:
        """Return the fields that a message of the session has besides those of its request."""
        return {"session": self.number, "kind": self.kind}


def order_of(kind: Kind, round_number: int) -> int:
    """Return the round of a session, with the hellos before all rounds."""
    return -1 if kind == "hello" else round_number


def read_session(packet: Packet) -> Session:
    """Read the session of a message.

    Raises:
        FederationError: If a field is missing or out of range.
    """
    kind = take_word(packet, "kind")
    if kind not in ("hello", "round"):
        raise FederationError(f"field 'kind' must be 'hello' or 'round', got {shown(kind, 40)}")
    return Session(
        run=take_word(packet, "run"),
        number=take_int(packet, "session", 1),
        kind="hello" if kind == "hello" else "round",
        round_number=take_int(packet, "round"),
    )


@dataclass(frozen=True)
class Wanted:
    """Which sums a site takes part in."""

    needed: int
    """Number of sites without which it reveals nothing."""
    roster: str
    """Digest of its roster."""


def pack_keys(signed: SignedKeys, wanted: Wanted) -> Packet:
    """Write a site's public keys, and which sums it takes part in."""
    tensors = {_KEYS: _words_of_keys(signed), _SIGNATURE: _words_of_signature(signed)}
    return Packet({"needed": wanted.needed, "roster": wanted.roster}, tensors)


def unpack_keys(packet: Packet, site: str, sums: int) -> tuple[SignedKeys, Wanted]:
    """Read a site's public keys, and which sums it takes part in.

    Args:
        packet: The site's answer.
        site: The sender, as its key shows.
        sums: Number of sums of the session.

    Raises:
        FederationError: If a field or tensor is missing or malformed.
    """
    parts = {_KEYS: _part(sums, _PUBLIC_BYTES), _SIGNATURE: _part(_KEYS_SIGNATURE_BYTES)}
    _check_words(f"client {site!r}", packet.tensors, parts)
    found = _signed_keys(site, packet.tensors[_KEYS], packet.tensors[_SIGNATURE])
    wanted = Wanted(take_int(packet, "needed", 2, _MOST_SITES), take_word(packet, "roster"))
    return found, wanted


def pack_all_keys(signed: Sequence[SignedKeys]) -> Packet:
    """Write the keys of all sites of a session, for each of them."""
    tensors = {
        _KEYS: torch.stack([_words_of_keys(one) for one in signed]),
        _SIGNATURE: torch.stack([_words_of_signature(one) for one in signed]),
    }
    return Packet({"sites": json.dumps([one.site for one in signed])}, tensors)


def unpack_all_keys(packet: Packet, sums: int) -> list[SignedKeys]:
    """Read the keys of all sites, at a site.

    Raises:
        FederationError: If a field or tensor is missing or malformed.
    """
    names = _take_names(packet)
    parts = {
        _KEYS: _part(len(names), sums, _PUBLIC_BYTES),
        _SIGNATURE: _part(len(names), _KEYS_SIGNATURE_BYTES),
    }
    _check_words("the server", packet.tensors, parts)
    keys, signatures = packet.tensors[_KEYS], packet.tensors[_SIGNATURE]
    return [
        _signed_keys(name, one, signature)
        for name, one, signature in zip(names, keys, signatures, strict=True)
    ]


def pack_dealt(dealt: Sequence[Dealt], names: Sequence[str]) -> Packet:
    """Write what a site has dealt, for each sum of the session.

    Args:
        dealt: For each sum.
        names: All sites of the session, sorted.
    """
    sealed = [torch.stack([_words(one.sealed[name]) for name in names]) for one in dealt]
    return Packet(
        {},
        {
            _COMMITMENTS: torch.stack([_words(one.commitment) for one in dealt]),
            _SEALED: torch.stack(sealed),
        },
    )


@dataclass(frozen=True)
class DealtWords:
    """What the server passes on of a site's shares, for one sum."""

    commitment: bytes
    sealed: Mapping[str, bytes]
    """By the site that can read them."""


def unpack_dealt(packet: Packet, site: str, names: Sequence[str], sums: int) -> list[DealtWords]:
    """Read what a site has dealt, for each sum, at the server.

    Raises:
        FederationError: If a tensor is missing or malformed.
    """
    parts = {
        _COMMITMENTS: _part(sums, KEY_BYTES),
        _SEALED: _part(sums, len(names), SEALED_BYTES),
    }
    _check_words(f"client {site!r}", packet.tensors, parts)
    return [
        DealtWords(
            _bytes(commitment), {name: _bytes(one) for name, one in zip(names, sealed, strict=True)}
        )
        for commitment, sealed in zip(
            packet.tensors[_COMMITMENTS], packet.tensors[_SEALED], strict=True
        )
    ]


def add_dealers(packet: Packet, session: Session, sealed: Mapping[str, bytes]) -> Packet:
    """Add to a task what a site needs to mask its term.

    Args:
        packet: The task.
        session: The session.
        sealed: Shares for this site, by the site that dealt them.
    """
    names = sorted(sealed)
    fields = {**packet.fields, **session.fields(), "sites": json.dumps(names)}
    words = torch.stack([_words(sealed[name]) for name in names])
    return Packet(fields, {**packet.tensors, _SEALED: words})


def take_dealers(packet: Packet) -> tuple[Packet, dict[str, bytes]]:
    """Split a task and what `add_dealers` has added.

    Raises:
        FederationError: If a field or tensor is missing or malformed.
    """
    names = _take_names(packet)
    sealed = {name: part for name, part in packet.tensors.items() if name == _SEALED}
    _check_words("the server", sealed, {_SEALED: _part(len(names), SEALED_BYTES)})
    rest = {name: part for name, part in packet.tensors.items() if name != _SEALED}
    found = {name: _bytes(one) for name, one in zip(names, sealed[_SEALED], strict=True)}
    return Packet(packet.fields, rest), found


def pack_masked(
    masked: UInt64[np.ndarray, " numbers"], signature: bytes, opened: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Name a masked term, the signature over its dealers, and the parts that no sum hides."""
    row = torch.from_numpy(masked.view(np.int64))
    return {MASKED: row, AGREED: _words(signature), **opened}


def unpack_masked(
    packet: Packet, site: str, numbers: int, parts: Mapping[str, Part]
) -> tuple[UInt64[np.ndarray, " numbers"], bytes, dict[str, Tensor]]:
    """Read a masked term, the signature over its dealers, and the parts that no sum hides.

    Args:
        packet: The site's answer.
        site: The sender, as its key shows.
        numbers: Length of the term.
        parts: The parts that are not hidden.

    Raises:
        FederationError: If a tensor is missing or malformed.
    """
    shapes = {MASKED: (numbers,), AGREED: _part(SIGNATURE_BYTES)}
    words = {name: part for name, part in packet.tensors.items() if name in shapes}
    opened = {name: part for name, part in packet.tensors.items() if name not in shapes}
    _check_words(f"client {site!r}", words, shapes)
    check_parts(f"client {site!r}", opened, parts)
    return words[MASKED].numpy().view(np.uint64), _bytes(words[AGREED]), opened


def pack_summed(
    summed: Sequence[str], session: Session, signatures: Mapping[str, bytes] | None = None
) -> Packet:
    """Ask a site to sign over which sites a sum is, or to reveal what the sum lacks.

    Args:
        summed: The sites.
        session: The session.
        signatures: Over these sites, by the site that has signed; None: the site is asked for one.
    """
    fields = {**session.fields(), "sites": json.dumps(sorted(summed))}
    if signatures is None:
        return Packet(fields)
    signers = sorted(signatures)
    words = torch.stack([_words(signatures[name]) for name in signers])
    return Packet({**fields, "signers": json.dumps(signers)}, {AGREED: words})


def unpack_summed(packet: Packet) -> list[str]:
    """Read over which sites a sum is.

    Raises:
        FederationError: If the field is missing or malformed, or there are tensors.
    """
    _check_words("the server", packet.tensors, {})
    return _take_names(packet)


def pack_signature(signature: bytes) -> Packet:
    """Write a site's signature over the sites of a sum."""
    return Packet({}, {AGREED: _words(signature)})


def unpack_agreed(packet: Packet) -> tuple[list[str], dict[str, bytes]]:
    """Read over which sites a sum is, and who has signed that.

    Raises:
        FederationError: If a field or tensor is missing or malformed.
    """
    names, signers = _take_names(packet), _take_names(packet, "signers")
    _check_words("the server", packet.tensors, {AGREED: _part(len(signers), SIGNATURE_BYTES)})
    words = zip(signers, packet.tensors[AGREED], strict=True)
    return names, {signer: _bytes(one) for signer, one in words}


def unpack_signature(packet: Packet, site: str) -> bytes:
    """Read a site's signature over the sites of a sum.

    Raises:
        FederationError: If the tensor is missing or malformed.
    """
    _check_words(f"client {site!r}", packet.tensors, {AGREED: _part(SIGNATURE_BYTES)})
    return _bytes(packet.tensors[AGREED])


def pack_revealed(revealed: Mapping[str, bytes]) -> dict[str, Tensor]:
    """Write what a site reveals, sorted by the sites that dealt it."""
    return {_REVEALED: torch.stack([_words(share) for _, share in sorted(revealed.items())])}


def unpack_revealed(packet: Packet, site: str, dealers: Sequence[str]) -> dict[str, bytes]:
    """Read what a site reveals, by the sites that dealt it.

    Raises:
        FederationError: If a tensor is missing or malformed.
    """
    parts = {_REVEALED: _part(len(dealers), KEY_BYTES)}
    _check_words(f"client {site!r}", packet.tensors, parts)
    shares = zip(sorted(dealers), packet.tensors[_REVEALED], strict=True)
    return {dealer: _bytes(share) for dealer, share in shares}


def expect_session(packet: Packet, session: Session) -> None:
    """Refuse an answer to another session.

    Raises:
        FederationError: If a field differs.
    """
    for name, value in session.fields().items():
        expect_field(packet, name, value)


def _signed_keys(site: str, keys: Tensor, signature: Tensor) -> SignedKeys:
    raw = [_bytes(one) for one in keys]
    bounds = range(0, _PUBLIC_BYTES, KEY_BYTES)
    public = tuple(PublicKeys(*(one[at : at + KEY_BYTES] for at in bounds)) for one in raw)
    content = _bytes(signature)
    length = int.from_bytes(content[:2], "big")
    return SignedKeys(site, public, content[2 : 2 + length])


def _words_of_keys(signed: SignedKeys) -> Tensor:
    return torch.stack([_words(one.joined) for one in signed.keys])


def _words_of_signature(signed: SignedKeys) -> Tensor:
    content = len(signed.signature).to_bytes(2, "big") + signed.signature
    return _words(content.ljust(_KEYS_SIGNATURE_BYTES, b"\0"))


def _words(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.int64)


def _bytes(words: Tensor) -> bytes:
    return words.contiguous().numpy().tobytes()


def _part(*sides: int) -> tuple[int, ...]:
    """Return the shape of bytes as words; the last side is a number of bytes."""
    return (*sides[:-1], sides[-1] // _WORD)


def _check_words(
    sender: str, sent: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse tensors other than words of these shapes."""
    if sent.keys() != shapes.keys():
        raise FederationError(f"{sender} sent {sorted(sent)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        if sent[name].shape != shape or sent[name].dtype != torch.int64:
            raise FederationError(
                f"{sender} sent {name} of shape {tuple(sent[name].shape)} as {sent[name].dtype}, "
                f"expected {shape} as torch.int64"
            )


def _take_names(packet: Packet, field: str = "sites") -> list[str]:
    """Read names of sites, which must be sorted and differ."""
    try:
        names = json.loads(take_word(packet, field))
    except (ValueError, RecursionError):
        names = None
    well_formed = (
        isinstance(names, list)
        and len(names) > 0
        and all(isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH for name in names)
        and names == sorted(set(names))
    )
    if not well_formed:
        text = shown(packet.fields.get(field), 80)
        raise FederationError(f"field {field!r} must be a sorted list of names, got {text}")
    return [str(name) for name in names or ()]
