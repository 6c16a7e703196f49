"""The federated loop, independent of where the clients run."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import torch

from fusseg.config import FederationConfig, LocalConfig, ModelConfig
from fusseg.federation.client import Client, train_locally
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.federation.strategies import aggregate, keeps_own_models
from fusseg.randomness import SERVER, round_generator
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.training import Model, TrainingPlan

Exchange = Callable[[GlobalState], Iterable[ClientUpdate]]
"""Sends the state to the clients and gathers their updates."""


@dataclass(frozen=True)
class Round:
    """A finished round: the next global state and the updates it came from, sorted by client."""

    state: GlobalState
    updates: tuple[ClientUpdate, ...]


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
    for round_number in range(state.round_number + 1, federation.rounds + 1):
        updates = []
        for update in exchange(state):
            updates.append(update)
            yield update
        updates.sort(key=lambda update: update.client_id)
        generator = round_generator(seed, round_number, SERVER)
        state = aggregate(state, updates, federation, generator)
        yield Round(state, tuple(updates))


def simulate(
    clients: Sequence[Client],
    own_models: MutableMapping[str, Model],
    local: LocalConfig,
    federation: FederationConfig,
    seed: int,
) -> Exchange:
    """Exchange that trains every client in this process, one after another.

    Args:
        clients: Who takes part.
        own_models: Each client's own model after its last round, by id; updated in every round,
            left empty where all is aggregated.
        local: How a step is done.
        federation: Which parts are sent, with baselines resolved.
        seed: Seed of the experiment.
    """

    def exchange(state: GlobalState) -> Iterator[ClientUpdate]:
        for client in clients:
            own = own_models.get(client.client_id)
            update, trained = train_locally(state, own, client, local, federation, seed)
            if keeps_own_models(federation):
                own_models[client.client_id] = trained
            yield update

    return exchange
