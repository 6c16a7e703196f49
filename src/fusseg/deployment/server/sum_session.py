"""Sessions of secure sums at the server: keys, then shares, which sites send through the server."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.pair_keys import PublicKeys, SignedKeys, keys_are_signed
from fusseg.deployment.server.admission import admitted_keys
from fusseg.deployment.server.asking import Reply
from fusseg.deployment.server.exchange import GridExchange
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import Request
from fusseg.deployment.wire.refusals import refusing
from fusseg.deployment.wire.sum_messages import (
    SUM_KEYS,
    SUM_SHARES,
    DealtWords,
    Kind,
    Session,
    Wanted,
    expect_session,
    pack_all_keys,
    unpack_dealt,
    unpack_keys,
)
from fusseg.federation.parts import Part


@dataclass(frozen=True)
class AskedSum:
    """One sum that the server asks for."""

    kind: Kind
    request: Request
    packet_for: Callable[[str], Packet]
    """Makes the task for a site, without what it needs to mask its term."""
    numbers: int
    """Length of a term."""
    sums: int
    """Number of sums of its session."""
    opened: Mapping[str, Part] = field(default_factory=dict)
    """Parts that are not summed."""


@dataclass(frozen=True)
class OpenSession:
    """A session in which sites have dealt shares."""

    session: Session
    needed: int
    """Number of sites without which no site reveals anything."""
    signed: Mapping[str, SignedKeys]
    dealt: Mapping[str, Sequence[DealtWords]]

    def sealed_for(self, site: str, place: int) -> dict[str, bytes]:
        """Return the shares for a site, by the site that dealt them."""
        return {dealer: words[place].sealed[site] for dealer, words in self.dealt.items()}

    def keys_of(self, place: int) -> dict[str, PublicKeys]:
        """Return the public keys of one sum, by site."""
        return {site: signed.keys[place] for site, signed in self.signed.items()}

    def commitments_of(self, place: int) -> dict[str, bytes]:
        """Return the commitments of the seeds of one sum, by site."""
        return {site: words[place].commitment for site, words in self.dealt.items()}


def open_session(
    grid: GridExchange, session: Session, asked: AskedSum, sites: Collection[str], least: int
) -> OpenSession | None:
    """Ask sites for keys, and for shares for each other.

    Args:
        grid: The exchange with the sites.
        session: A new session.
        asked: The sum that is asked for first.
        sites: Sites that are ready.
        least: Number of sites that the round needs.

    Returns:
        The session; None if too few sites have answered.
    """
    signed, needed = _ask_keys(grid, session, asked, sites)
    if not are_enough(grid, signed, max(needed, least), "keys"):
        return None
    dealt = _ask_shares(grid, session, asked, signed)
    if not are_enough(grid, dealt, max(needed, least), "shares"):
        return None
    return OpenSession(session, needed, signed, dealt)


def are_enough(grid: GridExchange, answered: Collection[str], wanted: int, what: str) -> bool:
    """Tell whether enough sites have answered, and write an event if not."""
    if len(answered) >= wanted:
        return True
    text = f"{len(answered)} sites sent {what}, {wanted} are needed; asking again"
    grid.sites.tell("waiting", text)
    return False


def stage_answers(
    grid: GridExchange, packets: Mapping[str, Packet], request: Request, session: Session
) -> Iterator[tuple[Reply, Packet]]:
    """Ask sites for a stage of a session; yields usable answers, and records the others."""
    for reply in grid.ask_again_if_lost(packets, packets.__getitem__):
        with noting(grid, reply.site, request.task):
            packet = grid.accept(reply, request)
            expect_session(packet, session)
            yield reply, packet


@contextmanager
def noting(grid: GridExchange, site: str, task: str) -> Iterator[None]:
    """Record that a site is left out, and go on without it."""
    try:
        with refusing(f"the answer of {site} to {task}"):
            yield
    except FederationError as error:
        grid.note(site, task, str(error))


def _ask_keys(
    grid: GridExchange, session: Session, asked: AskedSum, sites: Collection[str]
) -> tuple[dict[str, SignedKeys], int]:
    """Ask sites for their keys; returns those of sites with one roster, and how many it needs."""
    request = replace(asked.request, task=SUM_KEYS, place=0)
    packet = Packet({**request.fields(), **session.fields()})
    known = admitted_keys(grid.sites.channel.nodes)
    answers: dict[str, tuple[SignedKeys, Wanted]] = {}
    for reply, answer in stage_answers(grid, dict.fromkeys(sites, packet), request, session):
        site = reply.site
        with noting(grid, site, SUM_KEYS):
            signed, wanted = unpack_keys(answer, site, asked.sums)
            if not keys_are_signed(signed, known[site], session.session_id):
                # Passed on, they would make all others refuse the session.
                raise FederationError("its keys are not signed by its key on the server's list")
            answers[site] = signed, wanted
    counted = Counter(wanted for _, wanted in answers.values())
    # Of equally many, the larger number of sites.
    most = max(
        counted, key=lambda one: (counted[one], one.needed, one.roster), default=Wanted(2, "")
    )
    for site, (_, wanted) in sorted(answers.items()):
        if wanted != most:
            reason = (
                f"its roster differs from that of {counted[most]} other sites: it asks for "
                f"{wanted.needed} sites in a sum, theirs for {most.needed}; bring the files behind "
                "--roster in line"
            )
            grid.note(site, SUM_KEYS, reason)
    kept = {site: signed for site, (signed, own) in sorted(answers.items()) if own == most}
    return kept, most.needed


def _ask_shares(
    grid: GridExchange, session: Session, asked: AskedSum, signed: Mapping[str, SignedKeys]
) -> dict[str, Sequence[DealtWords]]:
    request = replace(asked.request, task=SUM_SHARES, place=0)
    keys = pack_all_keys([*signed.values()])
    packet = Packet({**request.fields(), **session.fields(), **keys.fields}, keys.tensors)
    dealt: dict[str, Sequence[DealtWords]] = {}
    for reply, answer in stage_answers(grid, dict.fromkeys(signed, packet), request, session):
        with noting(grid, reply.site, SUM_SHARES):
            dealt[reply.site] = unpack_dealt(answer, reply.site, [*signed], asked.sums)
    return dict(sorted(dealt.items()))
