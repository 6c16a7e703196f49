"""The exchange of a simulated federation, with all clients in this process."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

import torch

from fusseg.core.errors import FederationError
from fusseg.features.feature_set import FeatureSet
from fusseg.features.resident import FeatureSource, keep_resident
from fusseg.federation.answer import Answer, answer, report_training, start_training
from fusseg.federation.head_precision import narrow_update, receive_state, widen_update
from fusseg.federation.parts import Part
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Protocol, Task, sent_parts
from fusseg.federation.rounds import draw_participants
from fusseg.federation.secure_sums import (
    make_term,
    open_parts,
    read_total,
    rules_of_sum,
    sites_needed,
)
from fusseg.federation.state import Client, ClientUpdate, GlobalState, Memory, Total
from fusseg.federation.traffic import Delivery, Traffic, bytes_up, make_delivery, num_bytes
from fusseg.segmentation.training import clients_that_fit, train_together


def simulate(
    clients: Sequence[Client],
    memories: MutableMapping[str, Memory],
    protocol: Protocol,
    clients_at_once: int = 1,
    held: MutableMapping[str, dict[str, str]] | None = None,
) -> "Simulation":
    """Make an exchange that runs the clients of a round in this process, in order.

    Args:
        clients: Available clients; all must have the same `compute`.
        memories: Each client's memory of its last round, by id; updated in every round, and empty
            if the protocol needs none.
        protocol: Participants, exchanged parts and training settings.
        clients_at_once: Clients that train in one batched step, with the same results up to
            rounding; 0: one on a CPU, as many as fit in memory on another device.
        held: What each client has already received (`Traffic.held`); updated in every round, so
            that a resumed run counts the same bytes as an uninterrupted one; None: nothing yet.
    """
    return Simulation(
        clients=clients,
        memories=memories,
        protocol=protocol,
        clients_at_once=clients_at_once,
        kept=KeptCodes(protocol.positions_per_image, protocol.seed),
        place=keep_resident(clients[0].compute),
        traffic=Traffic({} if held is None else held),
    )


@dataclass(frozen=True)
class Simulation:
    """The arguments of `simulate`, and the state kept between rounds."""

    clients: Sequence[Client]
    memories: MutableMapping[str, Memory]
    protocol: Protocol
    clients_at_once: int
    kept: KeptCodes
    place: Callable[[str, FeatureSet], FeatureSource]
    traffic: Traffic

    def __call__(self, state: GlobalState, task: Task) -> Iterator[ClientUpdate | Total]:
        """Run the clients of the current round, one after another or side by side.

        Raises:
            FederationError: If training diverged, or too few clients take part in a secure sum.
        """
        protocol, wire = self.protocol, self.protocol.wire
        received = receive_state(state, wire)
        if task.trains:
            self.kept.forget()
        asked = asked_clients(self.clients, state.round_number + 1, protocol)
        delivery = make_delivery(state, task, protocol)
        # From the server's own state: changes to the rounded head are added to the exact one.
        parts = sent_parts(task, state, protocol)
        if protocol.privacy.secure_sum:
            yield self._sum(received, task, asked, delivery, parts)
            return
        for answered in self._answers(received, task, asked):
            sent = narrow_update(answered.update, parts, received.model.head, wire)
            self._note(answered, delivery, bytes_up(sent))
            yield widen_update(sent, parts, wire)

    def _sum(
        self,
        received: GlobalState,
        task: Task,
        asked: Sequence[Client],
        delivery: Delivery,
        parts: Mapping[str, Part],
    ) -> Total:
        """Add up the clients' terms, without masks: in a sum they cancel."""
        needed = sites_needed(self.protocol.privacy.threshold, len(self.clients))
        if len(asked) < needed:
            raise FederationError(
                f"{len(asked)} of {len(self.clients)} clients take part in round "
                f"{received.round_number + 1}, but no sum is learned from fewer than {needed} "
                f"(privacy.threshold {self.protocol.privacy.threshold:.3g}); ask more of them, or "
                "set privacy.secure_sum to false"
            )
        height, width, _ = asked[0].features.map_shape
        rules = rules_of_sum(task, parts, self.protocol, height * width, needed)
        row = torch.zeros((), dtype=torch.int64)
        collected = {}
        for answered in self._answers(received, task, asked):
            update = answered.update
            term = make_term(update, rules, len(self.clients))
            row = row + term
            opened = {name: update.parts[name] for name in open_parts(parts)}
            if opened:
                collected[update.client_id] = opened
            self._note(answered, delivery, num_bytes(term, *opened.values()))
        names = [client.client_id for client in asked]
        return read_total(row, names, collected, rules)

    def _note(self, answered: Answer, delivery: Delivery, sent: int) -> None:
        """Keep what stays with a client, and count the bytes of the exchange."""
        name = answered.update.client_id
        if self.protocol.keeps_memories and answered.memory is not None:
            self.memories[name] = answered.memory
        if not self.protocol.strategy.pools_images:
            self.traffic.send(name, delivery)
            self.traffic.arrived(name, delivery)
            self.traffic.receive(name, sent)

    def _answers(
        self, received: GlobalState, task: Task, asked: Sequence[Client]
    ) -> Iterator[Answer]:
        dim, compute = asked[0].features.map_shape[2], asked[0].compute
        at_once = self.clients_at_once or clients_that_fit(dim, self.protocol.local, compute)
        if task.trains and at_once > 1:
            yield from self._train_in_groups(received, task, asked, at_once)
            return
        for client in asked:
            memory = self.memories.get(client.client_id)
            yield answer(received, task, memory, client, self.protocol, self.kept)

    def _train_in_groups(
        self, received: GlobalState, task: Task, asked: Sequence[Client], size: int
    ) -> Iterator[Answer]:
        """Train in batched steps, with clients that have trained before apart from the others."""
        trained = [client for client in asked if client.client_id in self.memories]
        others = [client for client in asked if client.client_id not in self.memories]
        for alike in (trained, others):
            for first in range(0, len(alike), size):
                yield from self._train_side_by_side(received, task, alike[first : first + size])

    def _train_side_by_side(
        self, received: GlobalState, task: Task, group: Sequence[Client]
    ) -> Iterator[Answer]:
        protocol = self.protocol
        memories = [self.memories.get(client.client_id) for client in group]
        trainees = [
            replace(
                start_training(received, memory, client, protocol),
                features=self.place(client.client_id, client.features),
            )
            for client, memory in zip(group, memories, strict=True)
        ]
        results = train_together(trainees, received.plan, protocol.local, group[0].compute)
        for client, trained in zip(group, results, strict=True):
            yield report_training(received, task, trained, client, protocol, self.kept)


def asked_clients(clients: Sequence[Client], round_number: int, protocol: Protocol) -> list[Client]:
    """Pick the clients that take part in a round, in their given order."""
    ids = [client.client_id for client in clients]
    drawn = frozenset(draw_participants(ids, round_number, protocol))
    return [client for client in clients if client.client_id in drawn]
