"""The federated loop, independent of where the clients run."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace

import torch

from fusseg.config import FederationConfig, LocalConfig, ModelConfig
from fusseg.federation.aggregation import aggregate
from fusseg.federation.client import Client, answer, remembers_own_model
from fusseg.federation.points import KeptCodes
from fusseg.federation.schedule import num_rounds, tasks
from fusseg.federation.state import ClientUpdate, GlobalState, Task
from fusseg.federation.wire import narrow_update, receive_state, widen_update
from fusseg.randomness import SERVER, round_generator
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.training import Model, TrainingPlan

Exchange = Callable[[GlobalState, Task], Iterable[ClientUpdate]]
"""Sends the state and a task to the clients and gathers their updates."""


@dataclass(frozen=True)
class Answers:
    """One exchange: what was asked for, and the updates sorted by client."""

    task: Task
    updates: tuple[ClientUpdate, ...]


@dataclass(frozen=True)
class Round:
    """A finished round: the next global state and the exchanges it came from."""

    state: GlobalState
    exchanges: tuple[Answers, ...]

    @property
    def updates(self) -> tuple[ClientUpdate, ...]:
        """Updates of the first exchange: in rounds of training what the clients trained."""
        return self.exchanges[0].updates


def initial_state(model: ModelConfig, plan: TrainingPlan, seed: int) -> GlobalState:
    """Draw the head and centroids that all clients start from; centroids are standard normal."""
    generator = round_generator(seed, 0, SERVER)
    head = initial_head(len(plan.mean_feature), model.code_dim, generator)
    centroids = torch.randn(model.num_clusters, model.code_dim, generator=generator)
    return GlobalState(round_number=0, model=Model(head, centroids), plan=plan)


def run_rounds(
    state: GlobalState, exchange: Exchange, federation: FederationConfig, seed: int
) -> Iterator[ClientUpdate | Round]:
    """Train until the last round.

    Args:
        state: State to start from, fresh or restored.
        exchange: How updates are obtained: simulated here, or sent over the network.
        federation: Strategy, switches and number of rounds, with baselines resolved.
        seed: Seed of the experiment.

    Yields:
        Each client's update as it arrives, and after them the finished round.
    """
    for round_number in range(state.round_number + 1, num_rounds(federation) + 1):
        generator = round_generator(seed, round_number, SERVER)
        exchanges = []
        for task in tasks(round_number, federation):
            updates = []
            for update in exchange(state, task):
                updates.append(update)
                yield update
            updates.sort(key=lambda update: update.client_id)
            exchanges.append(Answers(task, tuple(updates)))
            state = aggregate(state, updates, federation, generator, task)
        state = replace(state, round_number=round_number)
        yield Round(state, tuple(exchanges))


def simulate(
    clients: Sequence[Client],
    own_models: MutableMapping[str, Model],
    local: LocalConfig,
    federation: FederationConfig,
    seed: int,
) -> Exchange:
    """Exchange that asks every client in this process, one after another.

    Args:
        clients: Who takes part.
        own_models: Each client's own model after its last round, by id; updated in every round,
            left empty where no client needs one.
        local: How a step is done.
        federation: Which parts are sent, with baselines resolved.
        seed: Seed of the experiment.
    """
    kept = KeptCodes(federation.positions_per_image, seed)
    remember = remembers_own_model(federation, local)
    wire = federation.wire

    def exchange(state: GlobalState, task: Task) -> Iterator[ClientUpdate]:
        received = receive_state(state, wire)
        for client in clients:
            own = own_models.get(client.client_id)
            update, after = answer(received, task, own, client, local, federation, kept)
            if remember and after is not None:
                own_models[client.client_id] = after
            sent = narrow_update(update, received.model.head, wire)
            yield widen_update(sent, state.model.head, wire)

    return exchange
