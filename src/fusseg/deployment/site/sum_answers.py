"""How a site answers the messages of secure sums: keys, shares, its masked term, its reveal."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from fusseg.core.errors import ConfigError, FederationError
from fusseg.deployment.keys.credentials import load_private, public_line
from fusseg.deployment.keys.sites_file import is_expired, read_sites
from fusseg.deployment.secure_sum.masks import mask
from fusseg.deployment.secure_sum.pair_keys import check_keys, new_keys
from fusseg.deployment.secure_sum.shares import deal, open_shares, reveal
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
    SUM_KEYS,
    SUM_REVEAL,
    SUM_SHARES,
    Session,
    pack_dealt,
    pack_keys,
    pack_masked,
    pack_revealed,
    read_session,
    take_dealers,
    unpack_all_keys,
    unpack_summed,
)
from fusseg.federation.protocol import Protocol
from fusseg.federation.secure_sums import sites_needed

STAGES = (SUM_KEYS, SUM_SHARES, SUM_REVEAL)
"""Tasks that need neither a model nor an image."""


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


def mask_term(
    term: Int64[Tensor, " numbers"],
    opened: Mapping[str, Tensor],
    packet: Packet,
    place: int,
    kept: Path,
    site: SiteSettings,
) -> dict[str, Tensor]:
    """Mask this site's term, once for each sum.

    Args:
        term: The term.
        opened: Parts that no sum hides.
        packet: The task, with the sites that have dealt shares, and these shares.
        place: Number of the sum in its session.
        kept: Folder of the run.
        site: The operator's decisions.

    Raises:
        FederationError: If this site refuses; its text may be sent to the server.
        DataError: If its files cannot be used.
    """
    _, sealed = take_dealers(packet)
    session = read_session(packet)
    with locked(kept):
        own = load_session(kept, session)
        part, keys = own.sums[place], own.keys_of(place)
        if part.private is None or not part.seed or part.sealed:
            raise FederationError("this site masks its term once in a sum, after dealing shares")
        strangers = sorted(sealed.keys() - keys.keys())
        if strangers:
            raise FederationError(f"the server named {strangers[0]!r}, which takes no part")
        if site.name not in sealed or len(sealed) < own.needed:
            raise FederationError(
                f"the server named {len(sealed)} sites for a sum, without this one or fewer than "
                f"the {own.needed} that privacy.threshold asks for; this site sends nothing"
            )
        # Stored first: no second mask of the same keys may ever leave.
        save_session(kept, own.with_sum(place, replace(part, sealed=sealed)))
        dealers = {name: keys[name] for name in sorted(sealed)}
        row = np.ascontiguousarray(term.numpy()).view(np.uint64)
        masked = mask(row, site.name, part.private, part.seed, dealers, session.sum_id(place))
    return pack_masked(masked, opened)


def _answer_keys(session: Session, kept: Path, site: SiteSettings, protocol: Protocol) -> Packet:
    roster, key = _roster(site), Path(site.key or "")
    needed = sites_needed(protocol.privacy.threshold, len(roster))
    private, signed = new_keys(
        site.name, load_private(key), session.session_id, num_sums(session, protocol)
    )
    sums = tuple(OwnSum(one) for one in private)
    begin_session(kept, OwnSession(session, needed, sums))
    return pack_keys(signed, needed)


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


def _reveal(packet: Packet, session: Session, place: int, kept: Path, site: SiteSettings) -> Packet:
    summed = unpack_summed(packet)
    own = load_session(kept, session)
    if place >= len(own.sums) or not own.sums[place].sealed:
        raise FederationError("this site has sent no term of this sum")
    part = own.sums[place]
    if part.private is not None:
        keys, sum_id = own.keys_of(place), session.sum_id(place)
        shares = open_shares(site.name, part.private, keys, part.sealed, sum_id)
        revealed = reveal(site.name, shares, summed, own.needed)
        note_revealed(kept, session, place, summed)
        # From here on, nothing is left with which the site's own mask could be computed.
        part = replace(part, private=None, seed=b"", revealed=revealed)
        save_session(kept, own.with_sum(place, part))
    else:
        # The answer was lost; for other sites than before, this refuses.
        note_revealed(kept, session, place, summed)
    return Packet({}, pack_revealed(part.revealed))


def _roster(site: SiteSettings) -> dict[str, str]:
    """Read the roster again: the operator may have brought it up to date."""
    if site.roster is None:
        raise FederationError("this site has no roster; start fusseg join with --roster FILE")
    try:
        return read_roster(Path(site.roster))
    except ConfigError as error:
        # The text names a file of this site and must not be sent.
        raise FederationError(
            "this site cannot read its roster; its own output says why"
        ) from error
