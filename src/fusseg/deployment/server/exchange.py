"""The exchange of a deployment: the rounds of the simulation, over the network."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief
from fusseg.deployment.server.asking import Failure, Reply, ask
from fusseg.deployment.server.asking_all import ask_all_sites
from fusseg.deployment.server.greeting import Sites, quorum, wait_for_sites
from fusseg.deployment.wire.packet import Packet, take_word
from fusseg.deployment.wire.payloads import (
    FINISH,
    Request,
    check_answers,
    pack_task,
    unpack_update,
)
from fusseg.deployment.wire.refusals import refusing
from fusseg.federation.checks import check_plausible, check_update
from fusseg.federation.head_precision import narrow_parts, widen_update
from fusseg.federation.parts import ClientFacts
from fusseg.federation.protocol import Task, sent_parts
from fusseg.federation.rounds import draw_participants
from fusseg.federation.state import ClientUpdate, GlobalState, Hello
from fusseg.federation.traffic import Delivery, bytes_up, make_delivery
from fusseg.runs.record import Incident, RoundLog

RETRY_SECONDS = 5.0


@dataclass
class _Place:
    """How far the rounds are."""

    round_number: int = -1
    place: int = -1
    """Number of the current exchange within the round."""
    participants: tuple[str, ...] = ()
    """Sites drawn for the round; empty before the draw, and if all sites take part."""
    incidents: list[Incident] = field(default_factory=list)
    """Incidents of the round; emptied after it."""


@dataclass(frozen=True)
class GridExchange:
    """Exchanges with the sites of a federation, and what happened in the current round."""

    sites: Sites
    now: _Place = field(default_factory=_Place)

    def __call__(self, state: GlobalState, task: Task) -> Iterator[ClientUpdate]:
        """Ask the sites of the round, as `simulate` asks clients; sites that fail are left out.

        Raises:
            FederationError: If fewer than the quorum give a usable answer within
                `federation.wait_timeout`. The run can be resumed later.
        """
        delivery = make_delivery(state, task, self.sites.protocol)
        exchange = _Exchange(state, task, self.next_request(state, task), delivery)
        number = exchange.request.round_number
        seconds = self.sites.config.federation.wait_timeout
        until = time.monotonic() + seconds
        answered: set[str] = set()
        while True:
            asked = self.wait_for_participants(number)
            # Each update is passed on at once, so that none has to be kept here. Only sites that
            # have not answered are asked again.
            for update in self._collect(exchange, asked - answered):
                answered.add(update.client_id)
                yield update
            wanted = self.wanted()
            if len(answered) >= wanted:
                self.note_changed(task.name)
                return
            text = f"{len(answered)} usable answers, {wanted} are needed; asking again"
            self.sites.tell("waiting", text)
            if time.monotonic() > until:
                raise FederationError(
                    f"round {number} has {len(answered)} usable answers of {wanted} after "
                    f"{seconds:.0f} s; continue with --resume"
                )
            time.sleep(RETRY_SECONDS)

    def ask_all(self, state: GlobalState, task: str, timeout: float) -> list[Reply]:
        """Ask every site of the federation, and list the replies sorted by site.

        Sites that come back meanwhile are asked too. The reply of a site that does not is a
        failure.

        Args:
            state: After a round.
            task: `evaluate` or `finish`.
            timeout: Seconds after which sites without an answer count as missing.
        """
        request = self.request(task, state.round_number, 0)
        delivery = make_delivery(state, None, self.sites.protocol)
        if task == FINISH:
            # There is no later exchange: every site is waited for once more.
            self.sites.guests.gone.clear()

        def packet_for(site: str) -> Packet:
            return self.pack(site, state, request, delivery)

        replies: dict[str, Reply] = {}
        for reply in ask_all_sites(self.sites, packet_for, timeout):
            replies[reply.site] = reply
            if _state(reply) == "done":
                self.sites.traffic.arrived(reply.site, delivery)
        return [reply for _, reply in sorted(replies.items())]

    def request(self, task: str, round_number: int, place: int) -> Request:
        """Name an exchange."""
        offer = self.sites.offer
        return Request(offer.run, offer.digest, task, round_number, place)

    def accept(self, reply: Reply, request: Request) -> Packet:
        """Accept an answer to this request and to no other.

        A site that refuses is offered the settings again before the next exchange: it may have come
        back without them.

        Raises:
            FederationError: If there is no answer, the site refused, or it answers another request.
        """
        packet = reply.content
        if isinstance(packet, Failure):
            raise FederationError(packet.reason)
        state = take_word(packet, "state")
        if state == "refused":
            self.sites.guests.returning.add(reply.site)
            self.sites.traffic.forget(reply.site)
        if state != "done":
            reason = brief(take_word(packet, "reason"))
            raise FederationError(f"the site {brief(state, 20)}: {reason}")
        check_answers(packet, request)
        return packet

    def note(self, site: str, task: str, reason: str) -> None:
        """Record that a site is left out, and why."""
        self.now.incidents.append(Incident(site, task, brief(reason)))
        text = f"{site} is left out of {task}: {brief(reason, 300)}"
        self.sites.tell("incident", text, site)

    def take_log(self) -> RoundLog:
        """Return the log of the round, and begin a new one."""
        log = RoundLog(self.sites.traffic.take(), tuple(self.now.incidents))
        self.now.incidents.clear()
        return log

    def next_request(self, state: GlobalState, task: Task) -> Request:
        """Name the next exchange of the round."""
        number, now = state.round_number + 1, self.now
        if now.round_number != number:
            now.round_number, now.place, now.participants = number, -1, ()
        now.place += 1
        return self.request(task.name, number, now.place)

    def wait_for_participants(self, round_number: int) -> set[str]:
        """Wait for enough sites, and choose those to ask: drawn sites stay the same for a round.

        If all sites take part in a round, one that joins late or comes back is asked in the next
        exchange already.
        """
        protocol = self.sites.protocol
        ready = wait_for_sites(self.sites, quorum(self.sites))
        if not protocol.clients_per_round:
            return set(ready)
        if not self.now.participants:
            self.now.participants = draw_participants(ready, round_number, protocol)
        return set(self.now.participants).intersection(ready)

    def wanted(self) -> int:
        """How many usable answers the round needs: as set, or one from every site drawn for it."""
        if not self.now.participants or self.sites.config.federation.min_sites:
            return quorum(self.sites)
        able = self.sites.admitted().keys() - self.sites.guests.changed
        return max(1, sum(site in able for site in self.now.participants))

    def note_changed(self, task: str) -> None:
        """Record the sites that were left out because they have other images now."""
        for site, changed in sorted(self.sites.guests.changed.items()):
            if site in (self.now.participants or self.sites.admitted()):
                self.note(site, task, f"it came back with other images: {changed}")

    def _collect(self, exchange: "_Exchange", sites: Collection[str]) -> Iterator[ClientUpdate]:
        """Ask sites for their updates."""

        def packet_for(site: str) -> Packet:
            return self.pack(site, exchange.state, exchange.request, exchange.delivery)

        for reply in self.ask_again_if_lost(sites, packet_for):
            yield from self._take(exchange, reply)

    def ask_again_if_lost(
        self, sites: Collection[str], packet_for: Callable[[str], Packet]
    ) -> Iterator[Reply]:
        """Ask sites; one that has lost what it was sent gets it again and is asked once more.

        Args:
            sites: The sites to ask.
            packet_for: Makes the packet for a site, by its name.

        Yields:
            The last reply of each site.
        """
        timeout = self.sites.config.federation.round_timeout
        lacking: list[str] = []
        packets = {site: packet_for(site) for site in sorted(sites)}
        for reply in ask(self.sites.channel, packets, timeout):
            if _state(reply) == "lacks":
                self.sites.traffic.forget(reply.site)
                lacking.append(reply.site)
            else:
                yield reply
        yield from ask(
            self.sites.channel, {site: packet_for(site) for site in sorted(lacking)}, timeout
        )

    def _take(self, exchange: "_Exchange", reply: Reply) -> Iterator[ClientUpdate]:
        """Yield the update of a usable answer, or record why there is none."""
        name, site = exchange.task.name, reply.site
        try:
            with refusing(f"the answer of {site} to {name}"):
                update = self._read(exchange, reply)
        except FederationError as error:
            self.note(site, name, str(error))
            return
        self.sites.traffic.arrived(site, exchange.delivery)
        self.sites.tell(
            "answer", f"round {exchange.request.round_number}: {name} from {site}", site
        )
        yield update

    def pack(self, site: str, state: GlobalState, request: Request, delivery: Delivery) -> Packet:
        """Write a task for a site, with what it does not have yet."""
        return pack_task(state, request, delivery, self.sites.traffic.send(site, delivery))

    def _read(self, exchange: "_Exchange", reply: Reply) -> ClientUpdate:
        packet = self.accept(reply, exchange.request)
        parts = sent_parts(exchange.task, exchange.state, self.sites.protocol)
        wire = self.sites.protocol.wire
        sent = unpack_update(packet, reply.site, narrow_parts(parts, wire), exchange.task)
        self.sites.traffic.receive(reply.site, bytes_up(sent))
        update = widen_update(sent, parts, wire)
        check_update(update, parts)
        hello = self.sites.guests.hellos[reply.site]
        assert isinstance(hello, Hello)
        num_images = hello.num_images
        if update.num_images != num_images:
            # It may have other images now: its next hello decides.
            self.sites.guests.returning.add(reply.site)
        check_plausible(update, parts, ClientFacts(num_images, self.sites.shape[0]))
        return update


@dataclass(frozen=True)
class _Exchange:
    """One exchange of a round."""

    state: GlobalState
    task: Task
    request: Request
    delivery: Delivery


def _state(reply: Reply) -> object:
    return None if isinstance(reply.content, Failure) else reply.content.fields.get("state")
