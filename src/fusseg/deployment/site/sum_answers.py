"""How a site answers the messages of secure sums: keys, shares, its masked term, its reveal."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from fusseg.core.errors import ConfigError, FederationError
from fusseg.deployment.keys.credentials import load_private, public_line
from fusseg.deployment.keys.sites_file import is_expired, read_sites
from fusseg.deployment.secure_sum.agreement import check_agreed, sign_set
from fusseg.deployment.secure_sum.masks import mask
from fusseg.deployment.secure_sum.pair_keys import PairKeys, check_keys, name_sum, new_keys
from fusseg.deployment.secure_sum.shares import check_summed, deal, open_shares, reveal
from fusseg.deployment.site.site_disk import SiteSettings
from fusseg.deployment.site.sum_state import (
    OwnSession,
    OwnSum,
    begin_session,
    load_session,
    locked,
    note_revealed,
    save_session,
)
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import Request
from fusseg.deployment.wire.sum_messages import (
    SUM_AGREE,
    SUM_KEYS,
    SUM_REVEAL,
    SUM_SHARES,
    Kind,
    Session,
    Wanted,
    pack_dealt,
    pack_keys,
    pack_masked,
    pack_revealed,
    pack_signature,
    read_session,
    take_dealers,
    unpack_agreed,
    unpack_all_keys,
    unpack_summed,
)
from fusseg.federation.protocol import Protocol
from fusseg.federation.secure_sums import sites_needed

LOG = logging.getLogger(__name__)
STAGES = (SUM_KEYS, SUM_SHARES, SUM_AGREE, SUM_REVEAL)
"""Tasks that need neither a model nor an image."""
FINAL_STAGES = (SUM_AGREE, SUM_REVEAL)
"""Those that finish a sum: a site that has come back answers them before its images are ready."""


def read_roster(path: Path) -> dict[str, str]:
    """Read the public keys of all sites of the federation, as this site's operator knows them.

    Raises:
        ConfigError: If the file cannot be used.
    """
    today = datetime.now(UTC).date()
    return {site.name: site.public_key for site in read_sites(path) if not is_expired(site, today)}


def check_roster(path: Path, name: str, key: Path) -> None:
    """Refuse a roster on which this site is missing or has another key.

    Raises:
        ConfigError: If it cannot be used.
    """
    roster = read_roster(path)
    if name not in roster:
        raise ConfigError(
            f"{path} does not list this site, {name!r}, with a key that is valid today"
        )
    if roster[name] != public_line(load_private(key)):
        raise ConfigError(
            f"{path} lists another public key for {name!r} than that of {key}; bring one of the "
            "two up to date"
        )


def answer_stage(
    packet: Packet, request: Request, kept: Path, site: SiteSettings, protocol: Protocol
) -> Packet:
    """Answer a message of a sum that needs neither a model nor an image.

    Args:
        packet: The message.
        request: Its request.
        kept: Folder of the run.
        site: The operator's decisions.
        protocol: The agreed settings.

    Raises:
        FederationError: If this site refuses; its text may be sent to the server.
        DataError: If its files cannot be used.
    """
    session = read_session(packet)
    with locked(kept):
        if request.task == SUM_KEYS:
            answered = _answer_keys(session, kept, site, protocol)
        elif request.task == SUM_SHARES:
            answered = _answer_shares(packet, session, kept, site)
        elif request.task == SUM_AGREE:
            answered = _agree(packet, session, request.place, kept, site)
        else:
            answered = _reveal(packet, session, request.place, kept, site)
    fields = {**request.fields(), **session.fields(), **answered.fields, "state": "done"}
    return Packet(fields, answered.tensors)


def num_sums(session: Session, protocol: Protocol) -> int:
    """Count the sums of a session.

    Raises:
        FederationError: If the agreed settings contain no such round.
    """
    if session.kind == "hello":
        return 1
    if not protocol.first_round <= session.round_number <= protocol.num_rounds:
        raise FederationError(f"the agreed settings hold no round {session.round_number}")
    return len(protocol.tasks(session.round_number))


@dataclass(frozen=True)
class Dealers:
    """What a site was told of a sum before it sends its term."""

    session: Session
    place: int
    """Number of the sum in its session."""
    sealed: Mapping[str, bytes]
    """Shares for this site, by the sites that have dealt them."""
    roster: Mapping[str, str]


def read_dealers(
    packet: Packet, place: int, kind: Kind, kept: Path, site: SiteSettings
) -> tuple[Packet, Dealers]:
    """Check what a site is told of a sum, before it reads an image for it.

    Args:
        packet: The task, with the sites that have dealt shares, and these shares.
        place: Number of the sum in its session.
        kind: Whether the sum is that of the hellos or one of a round.
        kept: Folder of the run.
        site: The operator's decisions.

    Returns:
        The task without them, and the sites.

    Raises:
        FederationError: If this site refuses; its text may be sent to the server.
        DataError: If its files cannot be used.
    """
    rest, sealed = take_dealers(packet)
    session = read_session(packet)
    if session.kind != kind or (kind == "hello" and (session.round_number or place)):
        raise FederationError("the server asked for a sum in a session of other sums")
    found = Dealers(session, place, sealed, _roster(site))
    with locked(kept):
        own = load_session(kept, session)
        part = _check_dealers(own, found, site.name)
        # Shares that nobody could open later would end the sum.
        open_shares(site.name, part, own.keys_of(place), sealed, session.sum_id(place))
    return rest, found


@contextmanager
def using_sum(dealers: Dealers, kept: Path, site: SiteSettings) -> Iterator[OwnSession]:
    """Use a sum, once: whatever happens inside, no second term of it leaves this site.

    Args:
        dealers: What `read_dealers` has checked.
        kept: Folder of the run.
        site: The operator's decisions.

    Yields:
        The session as it was before.

    Raises:
        FederationError: If this site refuses; its text may be sent to the server.
        DataError: If its files cannot be used.
    """
    with locked(kept):
        own = load_session(kept, dealers.session)
        _check_dealers(own, dealers, site.name)
        part = own.sums[dealers.place]
        agreed = tuple(sorted(dealers.sealed))
        # Stored first: no second mask of the same keys may ever leave.
        now = replace(part, sealed=dealers.sealed, agreed=agreed)
        save_session(kept, own.with_sum(dealers.place, now))
        yield own


def mask_term(
    term: Int64[Tensor, " numbers"],
    opened: Mapping[str, Tensor],
    dealers: Dealers,
    own: OwnSession,
    site: SiteSettings,
) -> dict[str, Tensor]:
    """Mask this site's term, and sign over which sites the sum is if no term is lost.

    Args:
        term: The term.
        opened: Parts that no sum hides.
        dealers: The sites that have dealt shares.
        own: The session, as `using_sum` yields it.
        site: The operator's decisions.
    """
    place, sum_id = dealers.place, dealers.session.sum_id(dealers.place)
    part, keys = own.sums[place], own.keys_of(place)
    assert part.private is not None
    names = sorted(dealers.sealed)
    row = np.ascontiguousarray(term.numpy()).view(np.uint64)
    masking = {name: keys[name] for name in names}
    masked = mask(row, site.name, part.private, part.seed, masking, sum_id)
    return pack_masked(masked, sign_set(part.private, sum_id, names), opened)


def _check_dealers(own: OwnSession, dealers: Dealers, name: str) -> PairKeys:
    """Return the keys of a sum, or refuse one that was used or is over too few sites."""
    place, sealed = dealers.place, dealers.sealed
    if place >= len(own.sums):
        raise FederationError(f"the session has {len(own.sums)} sums, and no sum {place}")
    part = own.sums[place]
    if part.private is None or not part.seed or part.sealed:
        raise FederationError("this site sends a term of each sum once, after dealing shares")
    if name not in sealed:
        raise FederationError("the server left out this site's shares; it sends nothing")
    if len(sealed) < own.needed:
        raise FederationError(
            f"the server named {len(sealed)} sites for a sum, fewer than the {own.needed} that "
            "privacy.threshold asks for; this site sends nothing"
        )
    return part.private


def _answer_keys(session: Session, kept: Path, site: SiteSettings, protocol: Protocol) -> Packet:
    roster = _roster(site)
    needed = sites_needed(protocol.privacy.threshold, len(roster))
    private, signed = new_keys(
        site.name,
        load_private(Path(site.key or "")),
        session.session_id,
        num_sums(session, protocol),
    )
    sums = tuple(OwnSum(one) for one in private)
    begin_session(kept, OwnSession(session, needed, sums))
    lines = (word for entry in sorted(roster.items()) for word in entry)
    return pack_keys(signed, Wanted(needed, name_sum("roster", *lines).hex()))


def _answer_shares(packet: Packet, session: Session, kept: Path, site: SiteSettings) -> Packet:
    own = load_session(kept, session)
    if own.keys:
        raise FederationError("this site deals its shares once in a session")
    received = unpack_all_keys(packet, len(own.sums))
    keys = check_keys(received, _roster(site), session.session_id, own.needed)
    if site.name not in keys:
        raise FederationError("the server left out this site's keys")
    own = replace(own, keys=keys)
    dealt = []
    for place, part in enumerate(own.sums):
        assert part.private is not None
        one = deal(site.name, part.private, own.keys_of(place), session.sum_id(place), own.needed)
        own = own.with_sum(place, replace(part, seed=one.seed))
        dealt.append(one)
    save_session(kept, own)
    return pack_dealt(dealt, [*keys])


def _agree(packet: Packet, session: Session, place: int, kept: Path, site: SiteSettings) -> Packet:
    """Sign over which sites a sum is, once more after the term: those whose terms have arrived."""
    summed = unpack_summed(packet)
    own = load_session(kept, session)
    part = _used(own, place)
    if part.private is None:
        raise FederationError("this site has revealed its part of this sum")
    if part.agreed not in (tuple(sorted(part.sealed)), tuple(summed)):
        raise FederationError(
            f"this site has signed that the sum is over {', '.join(part.agreed)}, and signs no "
            "other set"
        )
    check_summed(site.name, part.sealed, summed, own.needed)
    save_session(kept, own.with_sum(place, replace(part, agreed=tuple(summed))))
    return pack_signature(sign_set(part.private, session.sum_id(place), summed))


def _reveal(packet: Packet, session: Session, place: int, kept: Path, site: SiteSettings) -> Packet:
    summed, signatures = unpack_agreed(packet)
    own = load_session(kept, session)
    part = _used(own, place)
    if part.private is not None:
        if part.agreed != tuple(summed):
            raise FederationError(
                f"this site has signed that the sum is over {', '.join(part.agreed)}, and reveals "
                "it for no other sites"
            )
        keys, sum_id = own.keys_of(place), session.sum_id(place)
        check_summed(site.name, part.sealed, summed, own.needed)
        check_agreed(signatures, keys, sum_id, summed, own.needed)
        shares = open_shares(site.name, part.private, keys, part.sealed, sum_id)
        note_revealed(kept, session, place, summed)
        # From here on, nothing is left with which the site's own mask could be computed.
        revealed = reveal(shares, summed)
        part = replace(part, private=None, seed=b"", revealed=revealed)
        save_session(kept, own.with_sum(place, part))
    else:
        # The answer was lost; for other sites than before, this refuses.
        note_revealed(kept, session, place, summed)
    return Packet({}, pack_revealed(part.revealed))


def _used(own: OwnSession, place: int) -> OwnSum:
    if place >= len(own.sums) or not own.sums[place].sealed:
        raise FederationError("this site has sent no term of this sum")
    return own.sums[place]


def _roster(site: SiteSettings) -> dict[str, str]:
    """Read the roster again: the operator may have brought it up to date."""
    if site.roster is None:
        raise FederationError("this site has no roster; start fusseg join with --roster FILE")
    try:
        return read_roster(Path(site.roster))
    except ConfigError as error:
        # The text names a file of this site and must not be sent.
        LOG.warning("cannot read the roster: %s", error)
        raise FederationError(
            "this site cannot read its roster; its own output says why"
        ) from error
