"""The resolved rules of a federation: its strategy, the strategy's tasks, and every number.

`strategies.resolve` makes a `Protocol` from a configuration once; all other code uses the protocol.
`Task` and `Strategy` are records of functions, like `Objective`, because the configuration chooses
a strategy by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from fusseg.config.privacy import PrivacyConfig
from fusseg.config.schema import Config, ServerOptimizer, SiteClusters, TeachConfig, Weights, Wire
from fusseg.federation.clustering import Distance
from fusseg.federation.parts import Part
from fusseg.federation.points import KeptCodes
from fusseg.federation.state import Client, GlobalState
from fusseg.segmentation.objective import LocalTraining, Model


@dataclass(frozen=True)
class Work:
    """Inputs of a client's measurement; taken after training if the task trains."""

    client: Client
    model: Model
    """The client's model: as just trained, or assembled from the shared and its own parts."""
    state: GlobalState
    """Global state as the client received it."""
    protocol: "Protocol"
    kept: KeptCodes
    """Cached codes of the client's sampled positions."""
    used: Bool[Tensor, " clusters"] | None = None
    """Clusters that the client has trained; None: all."""
    start: int = 0
    """Number of the start that the model is, where several are measured side by side."""


@dataclass(frozen=True)
class Gathered:
    """The combined updates of one exchange, which the server merges; sorted by client."""

    state: GlobalState
    """Global state as the clients received it."""
    protocol: "Protocol"
    totals: Mapping[str, Tensor]
    """Sums over the clients, and averages weighted by the clients' weights, by part."""
    collected: Mapping[str, tuple[Tensor, ...]]
    """Collected parts by name, with one tensor per client."""
    shares: Float[Tensor, " clients"]
    """Weight of each client in averages of centroids, float64; they sum to 1. Empty with
    `privacy.secure_sum`, which hides the weights: centroids are averaged before then."""
    generator: Generator
    """The server's random source of this round; use no other."""

    @property
    def round_number(self) -> int:
        """Number of the current round, from 1."""
        return self.state.round_number + 1


@dataclass(frozen=True)
class Task:
    """One exchange of a round: what clients receive and send, and how the server merges it."""

    name: str
    """Name in messages, ledger and events."""
    parts: Callable[[GlobalState, "Protocol"], dict[str, Part]]
    """Describes the parts of an update."""
    measure: Callable[[Work], dict[str, Tensor]]
    """The client's side: computes the parts to send, after training if the task trains."""
    merge: Callable[[Gathered], Model]
    """The server's side: computes the next model."""
    conclude: Callable[[Gathered], GlobalState] | None = None
    """The server's side: computes the whole state, in place of `merge`, where an exchange changes
    more than the model."""
    trains: bool = False
    """Whether clients train first."""
    receives: tuple[str, ...] = ("head", "centroids")
    """Parts of the model that clients need for the task."""
    clusters: tuple[int | None, int | None] = (None, None)
    """Number of centroids before and after the task; None: `model.num_clusters`, and as before."""
    shared: bool = False
    """Whether the result is one model for all clients, even if each keeps its own later (E or C
    off)."""
    judges: bool = False
    """Whether clients judge the model, also on zoomed views of their images."""
    starts: int = 0
    """Number of starts that clients receive and measure side by side; 0: the model alone."""


def check_nothing(_config: Config, _feature_dim: int | None) -> None:
    """Accept every configuration."""


@dataclass(frozen=True)
class Strategy:
    """How the server makes the next model from the clients' updates, round by round."""

    tasks: Callable[[int, "Protocol"], tuple[Task, ...]]
    """Lists the exchanges of a round (from 1), including those of the finish after training."""
    trains: bool = True
    """Whether there are rounds of training; if not, there are only those of the finish."""
    one_model: bool = False
    """Whether all clients must share one head and one set of centroids."""
    uses_centroids: bool = True
    """Whether the centroids that clients train enter the next model, and not only their heads."""
    takes_some_centroids: bool = False
    """Whether clients may send the centroids of some clusters only."""
    averages_centroids: bool = False
    """Whether centroids are averaged by `Gathered.shares`."""
    aggregates: bool | None = None
    """Whether heads and centroids are aggregated; None: as configured."""
    baseline: bool = False
    """Whether it is a baseline, which trains on all images in every round, on one machine."""
    pools_images: bool = False
    """Whether one client holds the images of all sites."""
    renumbers: bool = False
    """Whether a round may number the clusters anew; if not, index k keeps its meaning."""
    min_clients: int = 1
    """Smallest number of answers for which it is meaningful."""
    check: Callable[[Config, int | None], None] = check_nothing
    """Refuses settings that it does not support. The second argument is the number of feature
    channels, or None if it is not known yet."""


@dataclass(frozen=True)
class Protocol:
    """The resolved rules of a federation: strategy, objective, and every number they need."""

    seed: int
    num_clusters: int
    code_dim: int
    strategy: Strategy
    strategy_name: str
    local: LocalTraining
    rounds: int
    """Rounds of training; 0 if the strategy does not train."""
    lloyd_rounds: int
    """Steps of federated Lloyd after training."""
    clients_per_round: int
    """Number of clients drawn in each round; 0: all."""
    positions_per_image: int
    """Positions sampled by Lloyd, PCA and consensus; 0: all."""
    distance: Distance
    weights: Weights
    """What the clients' heads are weighted by in averages."""
    centroid_weights: Weights
    """What their centroids are weighted by in averages."""
    max_weight_share: float
    """Largest share of one client in every average and sum; 1: no limit."""
    aggregate_heads: bool
    aggregate_centroids: bool
    site_clusters: SiteClusters
    """Which clusters a client trains and sends."""
    min_cluster_share: float
    """Smallest share of a client's positions at which a cluster is its own."""
    server_optimizer: ServerOptimizer
    server_learning_rate: float
    server_momentum: float
    wire: Wire
    start: tuple[Task, ...] = ()
    """Exchanges of round 0, which compute the start; empty: there is no round 0."""
    choice: tuple[Task, ...] = ()
    """Exchanges of the round after the last one, in which the server chooses between start and
    trained model; empty: the trained model is kept."""
    merging: tuple[Task, ...] = ()
    """Last exchange of every round that moves the model, which merges clusters to regions; empty:
    each cluster is a region, or stays in the region that a loaded model gives it."""

    teaching: tuple[Task, ...] = ()
    """Exchanges of the last round, in which clients with labels teach classes; empty: none is."""
    teach: TeachConfig = field(default_factory=TeachConfig)
    """How labels teach classes."""
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    """Whether the server learns only sums, and how."""

    @property
    def first_round(self) -> int:
        """Number of the first round: 0 if the start is computed, 1 if it is drawn or loaded."""
        return 0 if self.start else 1

    @property
    def shares_start(self) -> bool:
        """Whether all clients get the same computed start, which none of them could draw."""
        return any(task.shared for task in self.start)

    @property
    def num_rounds(self) -> int:
        """Number of the last round: those that move the model, the choice, teaching."""
        return self.last_scored + (1 if self.teaching else 0)

    @property
    def last_scored(self) -> int:
        """Number of the round after which the model is final; teaching adds classes to it."""
        return self.counted_rounds + (1 if self.choice else 0)

    @property
    def counted_rounds(self) -> int:
        """Number of rounds that move the model: those of training and the steps of the finish."""
        return self.rounds + self.lloyd_rounds

    @property
    def judges(self) -> bool:
        """Whether clients judge models, for which they need zoomed views of some images."""
        return any(task.judges for task in (*self.start, *self.choice))

    def asks_all(self, round_number: int) -> bool:
        """Tell whether all clients take part in a round, however many are drawn for the others."""
        last = self.is_choice(round_number) or self.is_teaching(round_number)
        return round_number == 0 or last

    def is_choice(self, round_number: int) -> bool:
        """Tell whether a round is that of the choice."""
        return bool(self.choice) and round_number == self.last_scored

    def is_teaching(self, round_number: int) -> bool:
        """Tell whether a round is that of teaching."""
        return bool(self.teaching) and round_number == self.num_rounds

    def may_close_unused(self, round_number: int) -> bool:
        """Tell whether the run can go on if a round changes nothing: one that moves the model."""
        return 1 <= round_number <= self.counted_rounds

    @property
    def averages_heads(self) -> bool:
        """Whether clients send heads: those of an objective that trains none stay as they are."""
        return self.aggregate_heads and self.local.objective.trains_head

    @property
    def weighs_by_fit(self) -> bool:
        """Whether clients that train send how well their codes fit, because a weight needs it."""
        centroids = self.aggregate_centroids and self.strategy.averages_centroids
        heads = self.averages_heads and self.weights == "uncertainty"
        return heads or (centroids and self.centroid_weights == "uncertainty")

    @property
    def keeps_own_models(self) -> bool:
        """Whether each client keeps a part of the model (E or C off)."""
        return not (self.aggregate_heads and self.aggregate_centroids)

    @property
    def keeps_memories(self) -> bool:
        """Whether clients have to remember anything from their last round."""
        carries = self.local.objective.carry is not None
        return self.keeps_own_models or self.local.fedmoon_weight > 0 or carries

    def tasks(self, round_number: int) -> tuple[Task, ...]:
        """List the exchanges of a round, from `first_round`."""
        if round_number == 0:
            return self.start
        if self.is_choice(round_number):
            return self.choice
        if self.is_teaching(round_number):
            return self.teaching
        return (*self.strategy.tasks(round_number, self), *self.merging)


def sent_parts(task: Task, state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """List the parts a client sends: none if the task only updates the client's own model."""
    if protocol.keeps_own_models and not (task.trains or task.shared):
        return {}
    return task.parts(state, protocol)
