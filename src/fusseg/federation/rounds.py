"""The federated loop, independent of where clients run, and the draw of its participants."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from fusseg.core.errors import FederationError
from fusseg.core.randomness import SERVER, round_generator
from fusseg.federation.gathering import Gathering
from fusseg.federation.protocol import Protocol, Task
from fusseg.federation.state import ClientUpdate, GlobalState, Total
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

_DRAW = "/participants"
_START = "/start"
"""Names of random sources of the server's; names of sites contain no slash."""
Exchange = Callable[[GlobalState, Task], Iterable[ClientUpdate | Total]]
"""Sends the state and a task to the round's clients; yields their updates as they arrive, or their
sum."""


class UnusedRoundError(FederationError):
    """A round cannot be finished, and must not be asked again: its sums stay unused."""


@dataclass(frozen=True)
class Answers:
    """One exchange: its task, and the updates of the clients that answered."""

    task: Task
    updates: tuple[ClientUpdate, ...]
    """Sorted by client. Summed or averaged parts are replaced by meta tensors. Empty if only their
    sum is known."""
    total: Total | None = None
    """The sum of the updates, where the server learns nothing else."""


@dataclass(frozen=True)
class Round:
    """A finished round: its exchanges and the resulting global state."""

    state: GlobalState
    exchanges: tuple[Answers, ...]
    """Empty if the round was closed unused, and the state is that before it."""

    @property
    def updates(self) -> tuple[ClientUpdate, ...]:
        """Updates of the first exchange, which in rounds of training is the training."""
        return self.exchanges[0].updates if self.exchanges else ()

    @property
    def total(self) -> Total | None:
        """The sum of those updates, where the server learns nothing else."""
        return self.exchanges[0].total if self.exchanges else None


def initial_state(protocol: Protocol, plan: TrainingPlan) -> GlobalState:
    """Draw the initial head and centroids for all clients; centroids are standard normal.

    A start that is computed in round 0 replaces them, except for the head's hidden layer.
    """
    generator = round_generator(protocol.seed, 0, SERVER)
    head = initial_head(len(plan.mean_feature), protocol.code_dim, generator)
    centroids = torch.randn(protocol.num_clusters, protocol.code_dim, generator=generator)
    model = Model(head, centroids)
    return GlobalState(round_number=protocol.first_round - 1, model=model, plan=plan)


def run_rounds(
    state: GlobalState, exchange: Exchange, protocol: Protocol
) -> Iterator[ClientUpdate | Total | Round]:
    """Train until the last round.

    Args:
        state: State to start from, new or restored.
        exchange: Obtains the updates: by simulation, or over the network.
        protocol: Strategy, switches and number of rounds.

    Yields:
        Each client's update as it arrives, or the sum of all, followed by the finished round.

    Raises:
        UnusedRoundError: If a round cannot be finished that others need.
    """
    for round_number in range(state.round_number + 1, protocol.num_rounds + 1):
        # The model of round 0 was drawn from the server's own source of that round.
        party = SERVER if round_number else _START
        generator = round_generator(protocol.seed, round_number, party)
        try:
            finished = yield from _run_round(state, exchange, protocol, round_number, generator)
        except UnusedRoundError:
            if not protocol.may_close_unused(round_number):
                raise
            finished = Round(replace(state, round_number=round_number), ())
        state = finished.state
        yield finished


def _run_round(
    state: GlobalState,
    exchange: Exchange,
    protocol: Protocol,
    round_number: int,
    generator: torch.Generator,
) -> Generator[ClientUpdate | Total, None, Round]:
    exchanges = []
    for task in protocol.tasks(round_number):
        gathering = Gathering(state, protocol, task)
        for update in exchange(state, task):
            gathering.add(update)
            yield update
        exchanges.append(Answers(task, gathering.updates, gathering.total))
        state = gathering.merge(generator)
    return Round(replace(state, round_number=round_number), tuple(exchanges))


def draw_participants(
    client_ids: Iterable[str], round_number: int, protocol: Protocol
) -> tuple[str, ...]:
    """Draw the participants of a round; simulation and deployment draw the same.

    Args:
        client_ids: Available clients, in any order.
        round_number: Number of the round; all clients take part in round 0 and in the choice.
        protocol: Number of clients per round (all, if there are fewer), and the seed.

    Returns:
        Ids of the participants, sorted.
    """
    names = sorted(client_ids)
    count = num_participants(len(names), round_number, protocol)
    if count == len(names):
        return tuple(names)
    generator = round_generator(protocol.seed, round_number, _DRAW)
    drawn = torch.randperm(len(names), generator=generator)[:count]
    return tuple(names[place] for place in sorted(drawn.tolist()))


def num_participants(num_clients: int, round_number: int, protocol: Protocol) -> int:
    """Count the clients that take part in a round: all in round 0 and in that of the choice."""
    if protocol.asks_all(round_number):
        return num_clients
    return min(protocol.clients_per_round or num_clients, num_clients)


def num_updates(first: int, last: int, num_clients: int, protocol: Protocol) -> int:
    """Count the updates that clients send in the rounds `first` to `last`, inclusive."""
    return sum(
        num_participants(num_clients, number, protocol) * len(protocol.tasks(number))
        for number in range(first, last + 1)
    )
