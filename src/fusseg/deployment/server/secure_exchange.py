"""The exchange of a deployment with secure sums: the server learns sums, and no site's term.

A round begins with a session: sites send public keys, then shares for each other. Each exchange of
the round then takes two trips: masked terms, and what the sites reveal so that the masks of their
sum can be removed (Bonawitz et al., 2017). If terms are lost, one more in between: the others sign
whose terms have arrived.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.deployment.server.asking import Reply
from fusseg.deployment.server.exchange import RETRY_SECONDS, GridExchange
from fusseg.deployment.server.greeting import greet, quorum, wait_for_sites
from fusseg.deployment.server.sum_memory import next_session, noted_sites
from fusseg.deployment.server.sum_reveal import (
    FoundSum,
    agree_on_set,
    close_unused,
    folder_of,
    learn_sum,
)
from fusseg.deployment.server.sum_session import (
    AskedSum,
    OpenSession,
    are_enough,
    noting,
    open_session,
)
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import Request
from fusseg.deployment.wire.sum_messages import (
    SUM_HELLO,
    Session,
    add_dealers,
    expect_session,
    unpack_masked,
)
from fusseg.federation.checks import find_implausible
from fusseg.federation.fixed_point import count_numbers
from fusseg.federation.parts import ClientFacts, Part
from fusseg.federation.protocol import Task, sent_parts
from fusseg.federation.secure_sums import (
    hello_shapes,
    open_parts,
    read_hello_total,
    read_total,
    rules_of_sum,
    term_shapes,
)
from fusseg.federation.state import GlobalState, HelloTotal, Total
from fusseg.federation.traffic import make_delivery, num_bytes

_BRING_BACK = "bring them back, or start a new run"


@dataclass
class SecureExchange:
    """Exchanges with the sites of a federation in which the server learns only sums."""

    grid: GridExchange
    current: OpenSession | None = None
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

        asked = AskedSum(
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
        assert self.current is not None
        rules = rules_of_sum(task, parts, protocol, sites.shape[0], self.current.needed)
        total = read_total(row, found.summed, found.collected, rules)
        # Noise takes sums beyond all bounds.
        if not rules.grains:
            self._check(total, parts, request)
        yield total

    def sum_hellos(self) -> HelloTotal:
        """Learn the sum of the hellos of all sites that are ready.

        Raises:
            FederationError: As for an exchange of a round.
        """
        sites, dim = self.grid.sites, self.grid.sites.shape[1]
        request = self.grid.request(SUM_HELLO, 0, 0)
        asked = AskedSum(
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

    def _learn(self, asked: AskedSum) -> tuple[Int64[Tensor, " numbers"], FoundSum]:
        """Ask until enough sites are in the sum and have revealed what it lacks."""
        seconds = self.grid.sites.config.federation.wait_timeout
        until = time.monotonic() + seconds
        while True:
            opened = self._open(asked, until)
            found = None if opened is None else self._collect(opened, asked)
            if opened is not None and found is not None:
                signatures = agree_on_set(self.grid, opened, asked, found)
                if signatures is not None:
                    return learn_sum(self.grid, opened, asked, found, signatures), found
            # Its keys were used, or too few sites have dealt shares.
            self.current = None
            if time.monotonic() > until:
                begun = {site for sites in self._begun(asked).values() for site in sites}
                if begun:
                    close_unused(self.grid, asked, begun, "some send no term", _BRING_BACK)
                raise FederationError(
                    f"{asked.request.task} of round {asked.request.round_number} has too few terms "
                    f"for a secure sum after {seconds:.0f} s; continue with --resume"
                )
            time.sleep(RETRY_SECONDS)

    def _open(self, asked: AskedSum, until: float) -> OpenSession | None:
        """Return the session of the round, a new one if there is none; None: too few sites."""
        number, kind = asked.request.round_number, asked.kind
        now = self.current
        if now is not None and (now.session.kind, now.session.round_number) == (kind, number):
            return now
        begun = {site for sites in self._begun(asked).values() for site in sites}
        ready = self._wait_for(begun, asked, until) if begun else self._wait(asked)
        session = next_session(folder_of(self.grid), self.grid.sites.offer.run, kind, number)
        least = len(begun) or self.grid.wanted()
        self.current = open_session(self.grid, session, asked, ready, least)
        return self.current

    def _begun(self, asked: AskedSum) -> dict[int, tuple[str, ...]]:
        """Return over which sites the sums are that were begun before and are asked again."""
        noted = noted_sites(folder_of(self.grid), asked.kind, asked.request.round_number)
        return {place: sites for place, sites in noted.items() if place >= asked.request.place}

    def _wait(self, asked: AskedSum) -> set[str]:
        """Wait for the sites to ask."""
        if asked.kind == "hello":
            return set(wait_for_sites(self.grid.sites, quorum(self.grid.sites)))
        return self.grid.wait_for_participants(asked.request.round_number)

    def _wait_for(self, begun: set[str], asked: AskedSum, until: float) -> set[str]:
        """Wait for all sites whose sums were begun before: no others can finish these."""
        sites = self.grid.sites
        while True:
            greet(sites)
            missing = sorted(begun.difference(sites.guests.are_ready(sites.online())))
            if not missing:
                return begun
            if time.monotonic() > until:
                for site in missing:
                    self.grid.note(site, asked.request.task, "it did not come back")
                why = f"{', '.join(missing)} did not come back"
                close_unused(self.grid, asked, begun, why, _BRING_BACK)
            time.sleep(RETRY_SECONDS)

    def _collect(self, opened: OpenSession, asked: AskedSum) -> FoundSum | None:
        """Ask for masked terms and add them up; None: too few arrived."""
        place, request = asked.request.place, asked.request
        begun = self._begun(asked).get(place)
        wanted = opened.dealt.keys() & (self.grid.sites.online().keys() if begun is None else begun)

        def packet_for(site: str) -> Packet:
            sealed = opened.sealed_for(site, place)
            return add_dealers(asked.packet_for(site), opened.session, sealed)

        found = FoundSum(np.zeros(asked.numbers, dtype=np.uint64))
        for reply in self.grid.ask_again_if_lost(wanted, packet_for):
            self._add(reply, opened.session, asked, found)
        found.summed.sort()
        if begun is not None and tuple(found.summed) != begun:
            missing = ", ".join(sorted(set(begun) - set(found.summed)))
            self.grid.sites.tell("waiting", f"a sum was begun with {missing}; asking again")
            return None
        least = opened.needed if begun else max(opened.needed, self.grid.wanted())
        what = f"terms of {request.task}"
        return found if are_enough(self.grid, found.summed, least, what) else None

    def _add(self, reply: Reply, session: Session, asked: AskedSum, found: FoundSum) -> None:
        """Add a masked term to the sum, or record why there is none."""
        site, name = reply.site, asked.request.task
        with noting(self.grid, site, name):
            packet = self.grid.accept(reply, asked.request)
            expect_session(packet, session)
            masked, signature, opened = unpack_masked(packet, site, asked.numbers, asked.opened)
            self._check_opened(site, opened, asked.opened)
            found.row += masked
            found.summed.append(site)
            found.signatures[site] = signature
            if opened:
                found.collected[site] = opened
            if asked.kind == "round":
                # As in a simulation: without keys and shares. Hellos have an entry of their own.
                sent = masked.nbytes + num_bytes(*opened.values())
                self.grid.sites.traffic.receive(site, sent)
            text = f"round {asked.request.round_number}: {name} from {site}, masked"
            self.grid.sites.tell("answer", text, site)

    def _check(self, total: Total, parts: Mapping[str, Part], request: Request) -> None:
        """Refuse a sum that no sites can have which follow the rules.

        Raises:
            FederationError: If it is out of bounds. No one can tell which site sent a wrong term.
        """
        count = len(total.client_ids)
        hidden = {name: part for name, part in parts.items() if name in total.parts}
        # Each term was rounded by up to half of the resolution.
        rounding = count * 2.0 ** -(self.grid.sites.protocol.privacy.resolution + 1)
        facts = ClientFacts(total.num_images, self.grid.sites.shape[0], rounding)
        wrong = find_implausible(total.loss, total.parts, hidden, facts)
        if wrong is not None:
            raise FederationError(
                f"round {request.round_number}: the sum over {count} sites holds {wrong}; one of "
                f"{', '.join(total.client_ids)} sent a wrong term, and a secure sum cannot tell "
                "which: ask the sites"
            )

    def _check_opened(
        self, site: str, opened: Mapping[str, Tensor], parts: Mapping[str, Part]
    ) -> None:
        """Check the parts that no sum hides, but counts, whose bounds are the hidden images."""
        facts = ClientFacts(0, self.grid.sites.shape[0])
        for name, part in parts.items():
            wrong = part.check(opened, facts) if part.dtype.is_floating_point else None
            if wrong is not None:
                raise FederationError(f"client {site!r} sent {wrong} ({name})")
