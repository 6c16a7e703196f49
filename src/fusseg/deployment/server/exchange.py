"""The exchange of a deployment: the same rounds as in simulation, over the network."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from fusseg.config.schema import Config
from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief
from fusseg.deployment.server.admission import admitted_nodes
from fusseg.deployment.server.events import DeploymentEvent, write_event
from fusseg.deployment.server.greeting import Guests, quorum, wait_for_sites
from fusseg.deployment.server.post import Failure, Post, Reply, ask
from fusseg.deployment.server.returning import Question, ask_everybody
from fusseg.deployment.wire.offer import Offer
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
from fusseg.federation.parts import ClientFacts
from fusseg.federation.protocol import Protocol, Task, sent_parts
from fusseg.federation.rounds import draw_participants
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.federation.traffic import Delivery, Traffic, bytes_up, make_delivery
from fusseg.federation.wire import narrow_parts, widen_update
from fusseg.runs.record import Incident, RoundLog

_RETRY_SECONDS = 5.0


@dataclass
class _Place:
    """Where the rounds are."""

    round_number: int = 0
    place: int = -1
    """Of the exchange that is going on."""
    participants: tuple[str, ...] = ()
    """Sites drawn for the round; empty before the draw, and where all take part."""
    incidents: list[Incident] = field(default_factory=list)
    """Of the round; emptied after it."""


@dataclass(frozen=True)
class GridExchange:
    """All that an exchange over the network needs to know."""

    post: Post
    offer: Offer
    config: Config
    """The server's own, which the offer was made of."""
    protocol: Protocol
    guests: Guests
    shape: tuple[int, int]
    """Positions of one feature map and channels of the features."""
    traffic: Traffic = field(default_factory=Traffic)
    now: _Place = field(default_factory=_Place)

    def __call__(self, state: GlobalState, task: Task) -> Iterator[ClientUpdate]:
        """Ask the sites of the round, in the place of `simulate`; those who fail are left out.

        Raises:
            FederationError: If fewer than the quorum answer usably within
                `federation.wait_timeout`; the run can go on later.
        """
        exchange = _Exchange(
            state, task, self._next(state, task), make_delivery(state, task, self.protocol)
        )
        number, seconds = exchange.request.round_number, self.config.federation.wait_timeout
        until = time.monotonic() + seconds
        answered: set[str] = set()
        while True:
            asked = self._wait_for_participants(number)
            # Each update goes on at once, so that none has to be kept here; who is asked again is
            # therefore who has not answered yet.
            for update in self._collect(exchange, asked - answered):
                answered.add(update.client_id)
                yield update
            wanted = self._wanted()
            if len(answered) >= wanted:
                self._note_changed(task)
                return
            text = f"{len(answered)} usable answers, {wanted} are needed; asking again"
            write_event(self.post.run_dir, DeploymentEvent("waiting", text))
            if time.monotonic() > until:
                raise FederationError(
                    f"round {number} has {len(answered)} usable answers of {wanted} after "
                    f"{seconds:.0f} s; go on with --resume"
                )
            time.sleep(_RETRY_SECONDS)

    def ask_all(self, state: GlobalState, task: str, timeout: float) -> list[Reply]:
        """Ask every site of the federation, and list what they say by name.

        Those who come back meanwhile are asked, too; whoever does not has a failure.

        Args:
            state: After a round.
            task: `evaluate` or `finish`.
            timeout: Seconds until those who have not answered count as missing.
        """
        request = self.request(task, state.round_number, 0)
        delivery = make_delivery(state, None, self.protocol)
        if task == FINISH:
            # There is no later exchange: once more everybody is waited for.
            self.guests.gone.clear()

        def packet_for(site: str) -> Packet:
            return self._pack(site, state, request, delivery)

        question = Question(packet_for, self.offer, self.protocol, self.shape, timeout)
        replies: dict[str, Reply] = {}
        for reply in ask_everybody(self.post, self.guests, self.traffic, question):
            replies[reply.site] = reply
            if _state(reply) == "done":
                self.traffic.arrived(reply.site, delivery)
        return [reply for _, reply in sorted(replies.items())]

    def request(self, task: str, round_number: int, place: int) -> Request:
        """Name an exchange."""
        return Request(self.offer.run, self.offer.digest, task, round_number, place)

    def accept(self, reply: Reply, request: Request) -> Packet:
        """Take an answer to a request, and to no other.

        A site that refuses is offered the settings again before the next exchange: it may have come
        back without them.

        Raises:
            FederationError: If there is none, the site refused, or it answers something else.
        """
        packet = reply.content
        if isinstance(packet, Failure):
            raise FederationError(packet.reason)
        state = take_word(packet, "state")
        if state == "refused":
            self.guests.returning.add(reply.site)
            self.traffic.forget(reply.site)
        if state != "done":
            reason = brief(take_word(packet, "reason"))
            raise FederationError(f"the site {brief(state, 20)}: {reason}")
        check_answers(packet, request)
        return packet

    def note(self, site: str, task: str, reason: str) -> None:
        """Note a site that is left out."""
        self.now.incidents.append(Incident(site, task, brief(reason)))
        text = f"{site} is left out of {task}: {brief(reason, 300)}"
        write_event(self.post.run_dir, DeploymentEvent("incident", text, site))

    def take_log(self) -> RoundLog:
        """Read what happened in the round, and begin anew."""
        log = RoundLog(self.traffic.take(), tuple(self.now.incidents))
        self.now.incidents.clear()
        return log

    def _next(self, state: GlobalState, task: Task) -> Request:
        number, now = state.round_number + 1, self.now
        if now.round_number != number:
            now.round_number, now.place, now.participants = number, -1, ()
        now.place += 1
        return self.request(task.name, number, now.place)

    def _wait_for_participants(self, round_number: int) -> set[str]:
        """Wait for enough sites, and name those to ask: the same ones in all of a round.

        Where a round has as many participants as there are sites, one that joins late or comes back
        is asked in the next exchange already.
        """
        wanted = quorum(self.config, self.post, self.guests)
        ready = wait_for_sites(
            self.post, self.offer, self.guests, self.protocol, self.shape, wanted
        )
        if not self.protocol.clients_per_round:
            return set(ready)
        if not self.now.participants:
            self.now.participants = draw_participants(ready, round_number, self.protocol)
        return set(self.now.participants).intersection(ready)

    def _wanted(self) -> int:
        """How many usable answers the round needs: as set, or one from every site drawn for it."""
        if not self.now.participants or self.config.federation.min_sites:
            return quorum(self.config, self.post, self.guests)
        able = admitted_nodes(self.post.nodes).keys() - self.guests.changed
        return max(1, sum(site in able for site in self.now.participants))

    def _note_changed(self, task: Task) -> None:
        """Note the sites that an exchange went on without: they have other images now."""
        for site, changed in sorted(self.guests.changed.items()):
            if site in (self.now.participants or admitted_nodes(self.post.nodes)):
                self.note(site, task.name, f"it came back with other images: {changed}")

    def _collect(self, exchange: "_Exchange", sites: Collection[str]) -> Iterator[ClientUpdate]:
        """Ask some sites; those that lack what they had got are sent it and asked once more."""
        lacking: list[str] = []
        for reply in self._ask(exchange, sites):
            if _state(reply) == "lacks":
                self.traffic.forget(reply.site)
                lacking.append(reply.site)
            else:
                yield from self._take(exchange, reply)
        for reply in self._ask(exchange, lacking):
            yield from self._take(exchange, reply)

    def _ask(self, exchange: "_Exchange", sites: Collection[str]) -> Iterator[Reply]:
        packets = {
            site: self._pack(site, exchange.state, exchange.request, exchange.delivery)
            for site in sorted(sites)
        }
        return ask(self.post, packets, self.config.federation.round_timeout)

    def _take(self, exchange: "_Exchange", reply: Reply) -> Iterator[ClientUpdate]:
        """Take an answer that can be used, or note why there is none."""
        name, site = exchange.task.name, reply.site
        try:
            with refusing(f"the answer of {site} to {name}"):
                update = self._read(exchange, reply)
        except FederationError as error:
            self.note(site, name, str(error))
            return
        self.traffic.arrived(site, exchange.delivery)
        text = f"round {exchange.request.round_number}: {name} from {site}"
        write_event(self.post.run_dir, DeploymentEvent("answer", text, site))
        yield update

    def _pack(self, site: str, state: GlobalState, request: Request, delivery: Delivery) -> Packet:
        return pack_task(state, request, delivery, self.traffic.send(site, delivery))

    def _read(self, exchange: "_Exchange", reply: Reply) -> ClientUpdate:
        packet = self.accept(reply, exchange.request)
        parts = sent_parts(exchange.task, exchange.state, self.protocol)
        wire = self.protocol.wire
        sent = unpack_update(packet, reply.site, narrow_parts(parts, wire), exchange.task)
        self.traffic.receive(reply.site, bytes_up(sent))
        update = widen_update(sent, parts, wire)
        check_update(update, parts)
        num_images = self.guests.hellos[reply.site].num_images
        if update.num_images != num_images:
            # It may have other images now: what it says when it is greeted again decides.
            self.guests.returning.add(reply.site)
        facts = ClientFacts(num_images, self.shape[0])
        check_plausible(update, parts, facts)
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
