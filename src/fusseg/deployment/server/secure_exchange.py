"""The exchange of a deployment with secure sums: the server learns sums, and no site's term.

A round begins with a session: sites send public keys, then shares for each other. Each exchange of
the round then takes two trips: masked terms, and what the sites reveal so that the masks of their
sum can be removed (Bonawitz et al., 2017).
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.deployment.secure_sum.masks import unmask
from fusseg.deployment.secure_sum.pair_keys import SignedKeys
from fusseg.deployment.server.asking import Failure, Reply
from fusseg.deployment.server.exchange import RETRY_SECONDS, GridExchange
from fusseg.deployment.server.greeting import quorum, wait_for_sites
from fusseg.deployment.server.sum_memory import next_session, note_sites, noted_sites
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import Request
from fusseg.deployment.wire.refusals import refusing
from fusseg.deployment.wire.sum_messages import (
    SUM_HELLO,
    SUM_KEYS,
    SUM_REVEAL,
    SUM_SHARES,
    DealtWords,
    Kind,
    Session,
    add_dealers,
    expect_session,
    pack_all_keys,
    pack_summed,
    unpack_dealt,
    unpack_keys,
    unpack_masked,
    unpack_revealed,
)
from fusseg.federation.checks import check_plausible
from fusseg.federation.fixed_point import count_numbers
from fusseg.federation.parts import ClientFacts, Part
from fusseg.federation.protocol import Task, sent_parts
from fusseg.federation.rounds import UnusedRoundError
from fusseg.federation.secure_sums import (
    hello_shapes,
    open_parts,
    read_hello_total,
    read_total,
    term_shapes,
)
from fusseg.federation.state import ClientUpdate, GlobalState, HelloTotal, Total
from fusseg.federation.traffic import make_delivery, num_bytes


@dataclass(frozen=True)
class _Asked:
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
class _Open:
    """A session in which sites have dealt shares."""

    session: Session
    needed: int
    """Number of sites without which no site reveals anything."""
    signed: Mapping[str, SignedKeys]
    dealt: Mapping[str, Sequence[DealtWords]]

    def sealed_for(self, site: str, place: int) -> dict[str, bytes]:
        """Return the shares for a site, by the site that dealt them."""
        return {dealer: words[place].sealed[site] for dealer, words in self.dealt.items()}


@dataclass
class _Found:
    """The sum of masked terms, as they arrive."""

    row: np.ndarray
    summed: list[str] = field(default_factory=list)
    collected: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass
class SecureExchange:
    """Exchanges with the sites of a federation in which the server learns only sums."""

    grid: GridExchange
    current: _Open | None = None
    """The session of the current round."""

    def __call__(self, state: GlobalState, task: Task) -> Iterator[Total]:
        """Ask the sites of the round for their terms, and yield the sum.

        Raises:
            FederationError: If too few sites give a usable answer within `federation.wait_timeout`,
                or the sum cannot be that of sites which follow the rules. The run can be resumed.
            UnusedRoundError: If the sum was begun before, and cannot be finished over the identical
                sites.
        """
        sites, protocol = self.grid.sites, self.grid.sites.protocol
        delivery, parts = make_delivery(state, task, protocol), sent_parts(task, state, protocol)
        request = self.grid.next_request(state, task)

        def packet_for(site: str) -> Packet:
            return self.grid.pack(site, state, request, delivery)

        asked = _Asked(
            kind="round",
            request=request,
            packet_for=packet_for,
            numbers=count_numbers(term_shapes(parts, task)),
            sums=len(protocol.tasks(request.round_number)),
            opened=open_parts(parts),
        )
        row, found = self._learn(asked)
        for site in found.summed:
            sites.traffic.arrived(site, delivery)
        total = read_total(row, found.summed, found.collected, parts, task, protocol)
        self._check(total, parts, request)
        yield total

    def sum_hellos(self) -> HelloTotal:
        """Learn the sum of the hellos of all sites that are ready.

        Raises:
            FederationError: As for an exchange of a round.
        """
        sites, dim = self.grid.sites, self.grid.sites.shape[1]
        request = self.grid.request(SUM_HELLO, 0, 0)
        asked = _Asked(
            kind="hello",
            request=request,
            packet_for=lambda _site: Packet(request.fields()),
            numbers=count_numbers(hello_shapes(sites.protocol, dim)),
            sums=1,
        )
        row, found = self._learn(asked)
        hellos = sites.guests.hellos
        # Sites whose hello is not in the sum are greeted again, and join later.
        classes_of = {site: hellos[site].classes for site in found.summed}
        return read_hello_total(row, classes_of, sites.protocol, dim)

    def _learn(self, asked: _Asked) -> tuple[Int64[Tensor, " numbers"], _Found]:
        """Ask until enough sites are in the sum and have revealed what it lacks."""
        sites = self.grid.sites
        seconds = sites.config.federation.wait_timeout
        until = time.monotonic() + seconds
        while True:
            opened = self._open(asked, until)
            found = None if opened is None else self._collect(opened, asked)
            if opened is not None and found is not None:
                return self._unmask(opened, asked, found, until), found
            # Its keys were used, or too few sites have dealt shares.
            self.current = None
            if time.monotonic() > until:
                raise FederationError(
                    f"{asked.request.task} of round {asked.request.round_number} has too few terms "
                    f"for a secure sum after {seconds:.0f} s; continue with --resume"
                )
            time.sleep(RETRY_SECONDS)

    def _open(self, asked: _Asked, until: float) -> _Open | None:
        """Return the session of the round, a new one if there is none; None: too few sites."""
        number, kind = asked.request.round_number, asked.kind
        now = self.current
        if now is not None and (now.session.kind, now.session.round_number) == (kind, number):
            return now
        begun = self._begun(asked)
        ready = self._wait(asked, {site for sites in begun.values() for site in sites}, until)
        session = next_session(self._folder, self.grid.sites.offer.run, kind, number)
        signed, needed = self._ask_keys(session, asked, ready)
        if not self._enough(signed, needed, "keys"):
            return None
        dealt = self._ask_shares(session, asked, signed)
        if not self._enough(dealt, needed, "shares"):
            return None
        self.current = _Open(session, needed, signed, dealt)
        return self.current

    def _begun(self, asked: _Asked) -> dict[int, tuple[str, ...]]:
        """Return over which sites the sums are that were begun before and are asked again."""
        noted = noted_sites(self._folder, asked.kind, asked.request.round_number)
        return {place: sites for place, sites in noted.items() if place >= asked.request.place}

    def _wait(self, asked: _Asked, begun: Collection[str], until: float) -> set[str]:
        """Wait for the sites to ask, and for all whose sums were begun before."""
        if asked.kind == "hello":
            there = set(wait_for_sites(self.grid.sites, quorum(self.grid.sites)))
        else:
            there = self.grid.wait_for_participants(asked.request.round_number)
        while not there >= set(begun):
            there |= set(self.grid.sites.guests.are_ready(self.grid.sites.online())) & set(begun)
            missing = sorted(set(begun) - there)
            if missing and time.monotonic() > until:
                raise _unused(asked, begun, f"{', '.join(missing)} did not come back")
            if missing:
                time.sleep(RETRY_SECONDS)
                wait_for_sites(self.grid.sites, quorum(self.grid.sites))
        return there

    def _enough(self, answered: Collection[str], needed: int, what: str) -> bool:
        wanted = max(needed, self.grid.wanted())
        if len(answered) >= wanted:
            return True
        text = f"{len(answered)} sites sent {what}, {wanted} are needed; asking again"
        self.grid.sites.tell("waiting", text)
        return False

    def _ask_keys(
        self, session: Session, asked: _Asked, sites: Collection[str]
    ) -> tuple[dict[str, SignedKeys], int]:
        """Ask sites for their keys; returns them, and how many sites most of these ask for."""
        request = replace(asked.request, task=SUM_KEYS, place=0)
        packet = Packet({**request.fields(), **session.fields()})
        answers: dict[str, tuple[SignedKeys, int]] = {}
        for site, answer in self._answers(dict.fromkeys(sites, packet), request, session):
            with self._noting(site, SUM_KEYS):
                answers[site] = unpack_keys(answer, site, asked.sums)
        counted = Counter(needed for _, needed in answers.values())
        # Of equally many, the larger number.
        needed = max(counted, key=lambda number: (counted[number], number), default=2)
        for site, (_, own) in sorted(answers.items()):
            if own != needed:
                reason = f"its roster asks for {own} sites in a sum, those of others for {needed}"
                self.grid.note(site, SUM_KEYS, reason)
        kept = {site: signed for site, (signed, own) in sorted(answers.items()) if own == needed}
        return kept, needed

    def _ask_shares(
        self, session: Session, asked: _Asked, signed: Mapping[str, SignedKeys]
    ) -> dict[str, Sequence[DealtWords]]:
        request = replace(asked.request, task=SUM_SHARES, place=0)
        keys = pack_all_keys([*signed.values()])
        packet = Packet({**request.fields(), **session.fields(), **keys.fields}, keys.tensors)
        dealt: dict[str, Sequence[DealtWords]] = {}
        for site, answer in self._answers(dict.fromkeys(signed, packet), request, session):
            with self._noting(site, SUM_SHARES):
                dealt[site] = unpack_dealt(answer, site, [*signed], asked.sums)
        return dict(sorted(dealt.items()))

    def _collect(self, opened: _Open, asked: _Asked) -> _Found | None:
        """Ask for masked terms and add them up; None: too few arrived."""
        place, request = asked.request.place, asked.request
        begun = self._begun(asked).get(place)
        wanted = opened.dealt.keys() if begun is None else opened.dealt.keys() & set(begun)

        def packet_for(site: str) -> Packet:
            sealed = opened.sealed_for(site, place)
            return add_dealers(asked.packet_for(site), opened.session, sealed)

        found = _Found(np.zeros(asked.numbers, dtype=np.uint64))
        for reply in self.grid.ask_again_if_lost(wanted, packet_for):
            self._add(reply, opened.session, asked, found)
        found.summed.sort()
        if begun is not None and tuple(found.summed) != begun:
            missing = ", ".join(sorted(set(begun) - set(found.summed)))
            self.grid.sites.tell("waiting", f"a sum was begun with {missing}; asking again")
            return None
        if not self._enough(found.summed, opened.needed, f"terms of {request.task}"):
            return None
        note_sites(self._folder, opened.session, place, found.summed)
        return found

    def _add(self, reply: Reply, session: Session, asked: _Asked, found: _Found) -> None:
        """Add a masked term to the sum, or record why there is none."""
        site, name = reply.site, asked.request.task
        with self._noting(site, name):
            packet = self.grid.accept(reply, asked.request)
            expect_session(packet, session)
            masked, opened = unpack_masked(packet, site, asked.numbers, asked.opened)
            self._check_opened(site, opened, asked.opened)
            found.row += masked
            found.summed.append(site)
            if opened:
                found.collected[site] = opened
            if asked.kind == "round":
                # As in a simulation: without keys and shares. Hellos have an entry of their own.
                sent = masked.nbytes + num_bytes(*opened.values())
                self.grid.sites.traffic.receive(site, sent)
            text = f"round {asked.request.round_number}: {name} from {site}, masked"
            self.grid.sites.tell("answer", text, site)

    def _unmask(
        self, opened: _Open, asked: _Asked, found: _Found, until: float
    ) -> Int64[Tensor, " numbers"]:
        """Ask the sites of the sum to reveal what it lacks, and remove the masks."""
        place, session = asked.request.place, opened.session
        request = replace(asked.request, task=SUM_REVEAL)
        packet = pack_summed(found.summed, session)
        packet = Packet({**request.fields(), **packet.fields})
        revealed: dict[str, dict[str, bytes]] = {}
        refused: set[str] = set()
        while len(revealed) < opened.needed:
            left = set(found.summed) - revealed.keys() - refused
            if len(left) + len(revealed) < opened.needed:
                raise _unused(asked, found.summed, "too few sites reveal what it lacks")
            online = self.grid.sites.online().keys()
            packets = dict.fromkeys(left & online, packet)
            for site, answer in self._answers(packets, request, session, refused):
                with self._noting(site, SUM_REVEAL):
                    revealed[site] = unpack_revealed(answer, site, [*opened.dealt])
            if len(revealed) < opened.needed:
                if time.monotonic() > until:
                    raise FederationError(
                        f"{len(revealed)} of {opened.needed} sites have revealed what the sum of "
                        f"round {request.round_number} lacks; continue with --resume when more of "
                        f"{', '.join(found.summed)} are there"
                    )
                time.sleep(RETRY_SECONDS)
        plain = unmask(
            found.row,
            found.summed,
            {site: signed.keys[place] for site, signed in opened.signed.items()},
            {site: words[place].commitment for site, words in opened.dealt.items()},
            revealed,
            session.sum_id(place),
            opened.needed,
        )
        return torch.from_numpy(plain.view(np.int64))

    def _answers(
        self,
        packets: Mapping[str, Packet],
        request: Request,
        session: Session,
        refused: set[str] | None = None,
    ) -> Iterator[tuple[str, Packet]]:
        """Ask sites for a stage of a session; yields usable answers, and records the others.

        Args:
            packets: One per site.
            request: The request.
            session: The session.
            refused: Sites that refuse are added to it.
        """
        for reply in self.grid.ask_again_if_lost(packets, packets.__getitem__):
            with self._noting(reply.site, request.task):
                try:
                    packet = self.grid.accept(reply, request)
                except FederationError:
                    if refused is not None and not isinstance(reply.content, Failure):
                        refused.add(reply.site)
                    raise
                expect_session(packet, session)
                yield reply.site, packet

    @contextmanager
    def _noting(self, site: str, task: str) -> Iterator[None]:
        """Record that a site is left out, and go on without it."""
        try:
            with refusing(f"the answer of {site} to {task}"):
                yield
        except FederationError as error:
            self.grid.note(site, task, str(error))

    def _check(self, total: Total, parts: Mapping[str, Part], request: Request) -> None:
        """Refuse a sum that no sites can have which follow the rules.

        Raises:
            FederationError: If it is out of bounds. No one can tell which site sent a wrong term.
        """
        count = len(total.client_ids)
        hidden = {name: part for name, part in parts.items() if name in total.parts}
        update = ClientUpdate(f"sum of {count} sites", total.num_images, total.loss, total.parts)
        facts = ClientFacts(total.num_images, self.grid.sites.shape[0])
        try:
            check_plausible(update, hidden, facts)
        except FederationError as error:
            raise FederationError(
                f"round {request.round_number}: {error}; one of {', '.join(total.client_ids)} sent "
                "a wrong term, and a secure sum cannot tell which: ask the sites"
            ) from error

    def _check_opened(
        self, site: str, opened: Mapping[str, Tensor], parts: Mapping[str, Part]
    ) -> None:
        """Check the parts that no sum hides, but counts, whose bounds are the hidden images."""
        facts = ClientFacts(0, self.grid.sites.shape[0])
        for name, part in parts.items():
            wrong = part.check(opened, facts) if part.dtype.is_floating_point else None
            if wrong is not None:
                raise FederationError(f"client {site!r} sent {wrong} ({name})")

    @property
    def _folder(self) -> Path:
        return self.grid.sites.channel.nodes.parent


def _unused(asked: _Asked, begun: Collection[str], why: str) -> UnusedRoundError:
    return UnusedRoundError(
        f"{asked.request.task} of round {asked.request.round_number} was begun with "
        f"{', '.join(sorted(begun))}, and must not be learned of other sites, but {why}; bring "
        "them back, or start a new run"
    )
