"""The federated loop, independent of where the clients run."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from fusseg.config import FederationConfig, ModelConfig
from fusseg.federation.aggregation import aggregate
from fusseg.federation.schedule import num_rounds, tasks
from fusseg.federation.state import ClientUpdate, GlobalState, Task
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
