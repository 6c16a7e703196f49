"""Clients in this process: the exchange of a simulated federation."""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace

from fusseg.config import FederationConfig, LocalConfig
from fusseg.features.feature_set import FeatureSet
from fusseg.features.resident import FeatureSource, keep_resident
from fusseg.federation.client import (
    Client,
    answer,
    remembers_own_model,
    report_training,
    start_training,
)
from fusseg.federation.participation import draw_participants
from fusseg.federation.points import KeptCodes
from fusseg.federation.rounds import Exchange
from fusseg.federation.state import ClientUpdate, GlobalState, Task
from fusseg.federation.wire import narrow_update, receive_state, widen_update
from fusseg.segmentation.stacking import clients_that_fit
from fusseg.segmentation.training import Model, train_together


def simulate(
    clients: Sequence[Client],
    own_models: MutableMapping[str, Model],
    local: LocalConfig,
    federation: FederationConfig,
    seed: int,
    clients_at_once: int = 1,
) -> Exchange:
    """Make the exchange that asks the clients of a round in this process, in their order.

    Args:
        clients: Who could take part, all of them computing alike.
        own_models: Each client's own model after its last round, by id; updated in every round,
            left empty where no client needs one.
        local: How a step is done.
        federation: Who takes part and which parts are sent, with baselines resolved.
        seed: Seed of the experiment.
        clients_at_once: Clients that train in one batched step, to the same results but for
            rounding; 0: one on the processor, as many as fit on a device beside it.
    """
    return _Simulation(
        clients=clients,
        own_models=own_models,
        local=local,
        federation=federation,
        clients_at_once=clients_at_once,
        kept=KeptCodes(federation.positions_per_image, seed),
        place=keep_resident(clients[0].compute),
    )


@dataclass(frozen=True)
class _Simulation:
    """The arguments of `simulate`, and what lasts from round to round."""

    clients: Sequence[Client]
    own_models: MutableMapping[str, Model]
    local: LocalConfig
    federation: FederationConfig
    clients_at_once: int
    kept: KeptCodes
    """Holds the seed as well."""
    place: Callable[[str, FeatureSet], FeatureSource]

    def __call__(self, state: GlobalState, task: Task) -> Iterator[ClientUpdate]:
        """Ask the clients of the round that begins, one after another or side by side."""
        wire, received = self.federation.wire, receive_state(state, self.federation.wire)
        remember = remembers_own_model(self.federation, self.local)
        if task == "train":
            self.kept.forget()
        asked = asked_clients(self.clients, state.round_number + 1, self.federation, self.kept.seed)
        for update, after in self._answers(received, task, asked):
            if remember and after is not None:
                self.own_models[update.client_id] = after
            sent = narrow_update(update, received.model.head, wire)
            yield widen_update(sent, state.model.head, wire)

    def _answers(
        self, received: GlobalState, task: Task, asked: Sequence[Client]
    ) -> Iterator[tuple[ClientUpdate, Model | None]]:
        dim, compute = asked[0].features.map_shape[2], asked[0].compute
        at_once = self.clients_at_once or clients_that_fit(dim, self.local, compute)
        if task == "train" and at_once > 1:
            yield from self._train_in_groups(received, asked, at_once)
            return
        for client in asked:
            own = self.own_models.get(client.client_id)
            yield answer(received, task, own, client, self.local, self.federation, self.kept)

    def _train_in_groups(
        self, received: GlobalState, asked: Sequence[Client], size: int
    ) -> Iterator[tuple[ClientUpdate, Model]]:
        """Train in batched steps; clients that have trained before and others never share one."""
        trained = [client for client in asked if client.client_id in self.own_models]
        others = [client for client in asked if client.client_id not in self.own_models]
        for alike in (trained, others):
            for first in range(0, len(alike), size):
                yield from self._train_side_by_side(received, alike[first : first + size])

    def _train_side_by_side(
        self, received: GlobalState, group: Sequence[Client]
    ) -> Iterator[tuple[ClientUpdate, Model]]:
        local, federation, seed = self.local, self.federation, self.kept.seed
        owns = [self.own_models.get(client.client_id) for client in group]
        trainees = [
            replace(
                start_training(received, own, client, local, federation, seed),
                features=self.place(client.client_id, client.features),
            )
            for client, own in zip(group, owns, strict=True)
        ]
        results = train_together(trainees, received.plan, local, group[0].compute)
        for client, (trained, loss) in zip(group, results, strict=True):
            update = report_training(received, trained, loss, client, local, federation, seed)
            yield update, trained


def asked_clients(
    clients: Sequence[Client], round_number: int, federation: FederationConfig, seed: int
) -> list[Client]:
    """Pick the clients that take part in a round, in their given order."""
    ids = [client.client_id for client in clients]
    drawn = frozenset(draw_participants(ids, round_number, federation, seed))
    return [client for client in clients if client.client_id in drawn]
