"""What was settled before the first exchange: strategies, their tasks, and every number.

`resolve` (strategies/) makes a `Protocol` of a configuration once; all code below the commands
takes it and settles nothing again. `Task` and `Strategy` are records of functions, as `Objective`
is: a strategy is chosen by its name in the configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config.schema import Config, Wire
from fusseg.federation.clustering import Distance
from fusseg.federation.parts import Part
from fusseg.federation.points import KeptCodes
from fusseg.federation.state import Client, GlobalState
from fusseg.segmentation.objective import LocalTraining, Model


@dataclass(frozen=True)
class Work:
    """What a client has before it when it measures: after its training, where the task trains."""

    client: Client
    model: Model
    """The client's model: what it trained, or shared parts and those that stay with it."""
    state: GlobalState
    """As the client received it."""
    protocol: "Protocol"
    kept: KeptCodes
    """Codes of the client's sampled positions, kept while its head stays the same."""


@dataclass(frozen=True)
class Gathered:
    """What the clients of one exchange sent, as the server merges it, sorted by client."""

    state: GlobalState
    """As the clients received it."""
    protocol: "Protocol"
    totals: Mapping[str, Tensor]
    """Sums over the clients, and averages by their weights, each by the name of its part."""
    collected: Mapping[str, tuple[Tensor, ...]]
    """The parts that are collected: by name, one of each client."""
    shares: Float[Tensor, " clients"]
    """Weight of each client, summing to 1; float64."""
    generator: Generator
    """The server's random source of this round: the only one to take numbers from."""

    @property
    def round_number(self) -> int:
        """Of the round that ends with what is merged, from 1."""
        return self.state.round_number + 1


@dataclass(frozen=True)
class Task:
    """One exchange of a round: what goes down, what comes back, and what becomes of it."""

    name: str
    """In messages, ledger and events."""
    parts: Callable[[GlobalState, "Protocol"], dict[str, Part]]
    """What an answer holds."""
    measure: Callable[[Work], dict[str, Tensor]]
    """The client's half, after training where the task trains: the parts it sends."""
    merge: Callable[[Gathered], Model]
    """The server's half: the next model."""
    trains: bool = False
    """Whether clients train first."""
    receives: tuple[str, ...] = ("head", "centroids")
    """Parts of the model that clients need for it."""


def check_nothing(_config: Config, _feature_dim: int | None) -> None:
    """Accept every configuration."""


@dataclass(frozen=True)
class Strategy:
    """How the server turns what the clients send into the next model, round by round."""

    tasks: Callable[[int, "Protocol"], tuple[Task, ...]]
    """Round, from 1, to its exchanges; also for the steps of the finish after training."""
    trains: bool = True
    """False: there are no rounds of training, only those of the finish."""
    one_model: bool = False
    """Whether it needs one head and one set of centroids for all clients."""
    aggregates: bool | None = None
    """Whether heads and centroids are aggregated; None: as the configuration says."""
    baseline: bool = False
    """Whether it is for comparison only: it trains on all images in every round, on one machine."""
    pools_images: bool = False
    """Whether one client holds the images of all sites."""
    min_clients: int = 1
    """Answers without which it means nothing."""
    check: Callable[[Config, int | None], None] = check_nothing
    """Refuses settings that do not go with it; the second argument is the number of channels of the
    features, where it is known."""


@dataclass(frozen=True)
class Protocol:
    """A federation's rules, settled: the strategy, the objective, and every number they need."""

    seed: int
    num_clusters: int
    code_dim: int
    strategy: Strategy
    strategy_name: str
    local: LocalTraining
    rounds: int
    """Of training; 0 where the strategy has none."""
    lloyd_rounds: int
    """Steps of federated Lloyd after them."""
    clients_per_round: int
    """Drawn anew for every round; 0: all."""
    positions_per_image: int
    """Positions that Lloyd, PCA and consensus look at; 0: all."""
    distance: Distance
    weighted: bool
    """Whether clients are weighed by their images."""
    max_weight_share: float
    """Share of every average that one client can have; 1: any."""
    aggregate_heads: bool
    aggregate_centroids: bool
    server_learning_rate: float
    wire: Wire

    @property
    def num_rounds(self) -> int:
        """Rounds in all: those of training, then one per step of the finish."""
        return self.rounds + self.lloyd_rounds

    @property
    def keeps_own_models(self) -> bool:
        """Whether a part of the model stays with each client (E or C off)."""
        return not (self.aggregate_heads and self.aggregate_centroids)

    @property
    def keeps_memories(self) -> bool:
        """Whether a client needs something of its last round again."""
        carries = self.local.objective.carry is not None
        return self.keeps_own_models or self.local.fedmoon_weight > 0 or carries

    def tasks(self, round_number: int) -> tuple[Task, ...]:
        """List the exchanges of a round, from 1."""
        return self.strategy.tasks(round_number, self)

    def num_exchanges(self, first: int, last: int) -> int:
        """Count the exchanges of the rounds from `first` to `last`, both included."""
        return sum(len(self.tasks(number)) for number in range(first, last + 1))


def sent_parts(task: Task, state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """List what a client sends: nothing where its own model alone moves on."""
    if protocol.keeps_own_models and not task.trains:
        return {}
    return task.parts(state, protocol)
