"""The exchange of a deployment: the same rounds as in simulation, over the network."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from fusseg.config import Config, FederationConfig
from fusseg.deployment.admission import admitted_nodes
from fusseg.deployment.events import DeploymentEvent, write_event
from fusseg.deployment.greeting import Guests, quorum, wait_for_sites
from fusseg.deployment.offer import Offer
from fusseg.deployment.packet import Packet, take_word
from fusseg.deployment.payloads import (
    Request,
    RoundTask,
    check_answers,
    narrow_expected,
    pack_state,
    unpack_update,
)
from fusseg.deployment.post import Failure, Post, Reply, ask
from fusseg.errors import FederationError
from fusseg.federation.aggregation import expected_tensors
from fusseg.federation.bounds import ClientFacts, check_plausible
from fusseg.federation.checks import check_update
from fusseg.federation.participation import draw_participants
from fusseg.federation.state import ClientUpdate, GlobalState, Task
from fusseg.federation.wire import widen_update
from fusseg.record import Incident

_RETRY_SECONDS = 5.0


@dataclass
class RoundLog:
    """What happened in the round that is going on, for the record; emptied after it."""

    round_number: int = 0
    place: int = -1
    """Of the exchange that is going on."""
    participants: tuple[str, ...] = ()
    """Sites drawn for it; empty before the draw, and where all take part."""
    incidents: list[Incident] = field(default_factory=list)
    traffic: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes down and up by site."""


@dataclass(frozen=True)
class GridExchange:
    """All that an exchange over the network needs to know."""

    post: Post
    offer: Offer
    config: Config
    """The server's own, which the offer was made of."""
    federation: FederationConfig
    """With baselines resolved."""
    guests: Guests
    shape: tuple[int, int]
    """Positions of one feature map and channels of the features."""
    log: RoundLog

    def __call__(self, state: GlobalState, task: Task) -> Iterator[ClientUpdate]:
        """Ask the sites of the round, in the place of `simulate`; those who fail are left out.

        Raises:
            FederationError: If fewer than the quorum answer usably within
                `federation.wait_timeout`; the run can go on later.
        """
        request = self._next(state, task)
        until = time.monotonic() + self.federation.wait_timeout
        answered: set[str] = set()
        while True:
            asked = self._wait_for_participants(request.round_number)
            # Each update goes on at once, so that none has to be kept here; who is asked again is
            # therefore who has not answered yet.
            for update in self._collect(state, request, task, asked - answered):
                answered.add(update.client_id)
                yield update
            wanted = self._wanted()
            if len(answered) >= wanted:
                return
            text = f"{len(answered)} usable answers, {wanted} are needed; asking again"
            write_event(self.post.run_dir, DeploymentEvent("waiting", text))
            if time.monotonic() > until:
                raise FederationError(
                    f"round {request.round_number} has {len(answered)} usable answers of {wanted} "
                    f"after {self.federation.wait_timeout:.0f} s; go on with --resume"
                )
            time.sleep(_RETRY_SECONDS)

    def request(self, task: RoundTask, round_number: int, place: int) -> Request:
        """Name an exchange."""
        return Request(self.offer.run, self.offer.digest, task, round_number, place)

    def count(self, reply: Reply) -> None:
        """Note the bytes of a reply."""
        traffic = self.log.traffic.setdefault(reply.site, {"bytes_up": 0, "bytes_down": 0})
        traffic["bytes_up"] += reply.bytes_up
        traffic["bytes_down"] += reply.bytes_down

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
        if state != "done":
            raise FederationError(f"the site {state[:20]}: {take_word(packet, 'reason')[:500]}")
        check_answers(packet, request)
        return packet

    def note(self, site: str, task: str, reason: str) -> None:
        """Note a site that is left out."""
        self.log.incidents.append(Incident(site, task, reason[:1000]))
        text = f"{site} is left out of {task}: {reason[:300]}"
        write_event(self.post.run_dir, DeploymentEvent("incident", text, site))

    def _next(self, state: GlobalState, task: Task) -> Request:
        number = state.round_number + 1
        if self.log.round_number != number:
            self.log.round_number, self.log.place = number, -1
            self.log.participants = ()
        self.log.place += 1
        return self.request(task, number, self.log.place)

    def _wait_for_participants(self, round_number: int) -> set[str]:
        """Wait for enough sites, and name those to ask: the same ones in all of a round.

        Where a round has as many participants as there are sites, one that joins late or comes back
        is asked in the next exchange already.
        """
        wanted = quorum(self.config, self.post)
        ready = wait_for_sites(self.post, self.offer, self.guests, self.shape, wanted)
        if not self.federation.clients_per_round:
            return set(ready)
        if not self.log.participants:
            drawn = draw_participants(ready, round_number, self.federation, self.config.seed)
            self.log.participants = drawn
        return set(self.log.participants).intersection(ready)

    def _wanted(self) -> int:
        """How many usable answers the round needs: as set, or one from every site drawn for it."""
        if not self.log.participants or self.federation.min_sites:
            return quorum(self.config, self.post)
        admitted = admitted_nodes(self.post.nodes)
        return max(1, sum(site in admitted for site in self.log.participants))

    def _collect(
        self, state: GlobalState, request: Request, task: Task, sites: Collection[str]
    ) -> Iterator[ClientUpdate]:
        packets = dict.fromkeys(sorted(sites), pack_state(state, request, self.federation))
        for reply in ask(self.post, packets, self.federation.round_timeout):
            self.count(reply)
            try:
                update = self._read(reply, state, request, task)
            except FederationError as error:
                self.note(reply.site, task, str(error))
                continue
            text = f"round {request.round_number}: {task} from {reply.site}"
            write_event(self.post.run_dir, DeploymentEvent("answer", text, reply.site))
            yield update

    def _read(self, reply: Reply, state: GlobalState, request: Request, task: Task) -> ClientUpdate:
        packet = self.accept(reply, request)
        expected = expected_tensors(state, self.federation, task)
        sent = narrow_expected(expected, state.model.head, self.federation)
        update = unpack_update(packet, reply.site, sent, task, self.federation)
        update = widen_update(update, state.model.head, self.federation.wire)
        check_update(update, expected)
        hello = self.guests.hellos[reply.site]
        facts = ClientFacts(hello.num_images, self.shape[0])
        check_plausible(state, update, facts, self.config.local, self.federation)
        return update


def enter_traffic(log: RoundLog, entry: dict[str, Any]) -> None:
    """Put the bytes that were measured into a round's entry of the record, and begin anew."""
    for client in entry["clients"]:
        client |= log.traffic.get(client["client_id"], {})
    for name in ("bytes_up", "bytes_down"):
        entry[name] = sum(traffic[name] for traffic in log.traffic.values())
    log.incidents, log.traffic = [], {}
