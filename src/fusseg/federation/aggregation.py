"""How the server turns client updates into the next global state, one update at a time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config import FederationConfig
from fusseg.errors import FederationError
from fusseg.federation.checks import check_centroids, check_first, check_update
from fusseg.federation.lloyd import CodeSums, move_centroids
from fusseg.federation.moments import (
    FeatureMoments,
    pca_head,
    principal_components,
    starting_centroids,
)
from fusseg.federation.state import ClientUpdate, GlobalState, Task
from fusseg.federation.strategies import (
    CONSENSUS,
    STRATEGIES,
    PooledCentroids,
    keeps_own_models,
    sends_centroids,
)
from fusseg.federation.summation import RunningSum
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.training import Model


class Gathering:
    """The updates of one exchange, folded into sums as they arrive.

    Heads, sums of codes and moments are added up and let go, so that the server never holds those
    of all clients; their order does not matter. Centroids are kept: they have to be pooled.
    """

    def __init__(self, state: GlobalState, federation: FederationConfig, task: Task) -> None:
        """Start without an update.

        Args:
            state: State the clients start from; what stays with the clients stays as it is.
            federation: Strategy, distance and the three switches, with baselines resolved.
            task: What the clients are asked for.
        """
        self.state, self.federation, self.task = state, federation, task
        self._expected = expected_tensors(state, federation, task)
        folded = self._expected
        if task == "train":
            folded = dict(state.model.head) if federation.aggregate_heads else {}
        self._sums = RunningSum(folded)
        self._outline = {
            name: torch.empty_like(part, device="meta") for name, part in folded.items()
        }
        self._arrived: dict[str, ClientUpdate] = {}

    @property
    def updates(self) -> tuple[ClientUpdate, ...]:
        """What has arrived, sorted by client; what is folded is left as a shape without numbers."""
        return tuple(self._arrived[client_id] for client_id in sorted(self._arrived))

    def add(self, update: ClientUpdate) -> None:
        """Check an update and fold it into the sums.

        Raises:
            FederationError: If the client has answered before, or what it sent does not fit.
        """
        check_first(update.client_id, self._arrived, self.state.round_number + 1)
        check_update(update, self._expected)
        weight = self._weight(update) if self.task == "train" else 1
        self._sums.add(update.tensors(), weight)
        self._arrived[update.client_id] = self._without_numbers(update)

    def merge(self, generator: Generator) -> GlobalState:
        """Make the next global state; the round's number stays.

        Args:
            generator: The server's random source of this round.

        Raises:
            FederationError: If no client answered, or the strategy's centroids do not fit.
        """
        if not self._arrived:
            raise FederationError(f"no client answered in round {self.state.round_number + 1}")
        if self.task == "lloyd" and keeps_own_models(self.federation):
            return self.state
        return replace(self.state, model=MERGES[self.task](self, generator))

    def average_head(self) -> HeadWeights:
        """Average the heads by the clients' weights (Eq. 8), in float64."""
        weight = sum(self._weight(update) for update in self._arrived.values())
        return {
            name: (total / weight).to(self._outline[name].dtype)
            for name, total in self._sums.total().items()
        }

    def sums(self) -> dict[str, Tensor]:
        """Read what was summed, by name: of a Lloyd step or of moments."""
        return self._sums.total()

    def _weight(self, update: ClientUpdate) -> int:
        return update.num_images if self.federation.weighted else 1

    def _without_numbers(self, update: ClientUpdate) -> ClientUpdate:
        outline = self._outline
        return replace(
            update,
            head=None if update.head is None else outline,
            code_sums=None if update.code_sums is None else CodeSums(**outline),
            moments=None if update.moments is None else FeatureMoments(**outline),
        )


def aggregate(
    state: GlobalState,
    updates: Iterable[ClientUpdate],
    federation: FederationConfig,
    generator: Generator,
    task: Task = "train",
) -> GlobalState:
    """Merge one exchange's updates into the next global state; the round's number stays.

    Args:
        state: State the clients started from; what stays with the clients stays as it is.
        updates: One per client that answered, in any order; none is kept.
        federation: Strategy, distance and the three switches, with baselines resolved.
        generator: The server's random source of this round.
        task: What the clients were asked for.

    Raises:
        FederationError: If no client answered, or what one sent or the strategy returned does not
            fit.
    """
    gathering = Gathering(state, federation, task)
    for update in updates:
        gathering.add(update)
    return gathering.merge(generator)


def merge_trained(gathering: Gathering, generator: Generator) -> Model:
    """Average the heads and apply the strategy's rule to the centroids.

    Raises:
        FederationError: If the rule does not return centroids like the last ones.
    """
    state, federation, updates = gathering.state, gathering.federation, gathering.updates
    head, centroids = state.model.head, state.model.centroids
    if federation.aggregate_heads:
        head = step_towards(head, gathering.average_head(), federation.server_learning_rate)
    if sends_centroids(federation):
        pool = PooledCentroids(
            centroids=torch.stack([u.centroids for u in updates if u.centroids is not None]),
            shares=client_shares(updates, federation.weighted),
            previous=centroids,
            round_number=state.round_number + 1,
            usages=tuple(update.usage for update in updates if update.usage is not None),
        )
        merged = STRATEGIES[federation.strategy](pool, federation.distance, generator)
        centroids = check_centroids(federation.strategy, merged, centroids)
    return Model(head, centroids)


def merge_sums(gathering: Gathering, _generator: Generator) -> Model:
    """Move the centroids by the clients' sums: one Lloyd step."""
    model = gathering.state.model
    return Model(model.head, move_centroids(model.centroids, CodeSums(**gathering.sums())))


def merge_moments(gathering: Gathering, generator: Generator) -> Model:
    """Make the head of the principal components, and centroids to start Lloyd from."""
    num_clusters, code_dim = gathering.state.model.centroids.shape
    moments = FeatureMoments(**gathering.sums())
    directions, variances, mean = principal_components(moments, code_dim)
    return Model(pca_head(directions, mean), starting_centroids(variances, num_clusters, generator))


MERGES: dict[Task, Callable[[Gathering, Generator], Model]] = {
    "train": merge_trained,
    "lloyd": merge_sums,
    "moments": merge_moments,
}


def step_towards(head: HeadWeights, average: HeadWeights, learning_rate: float) -> HeadWeights:
    """Take the server's step from the old head towards the average (FedOpt, arXiv 2003.00295).

    Args:
        head: Global head at the start of the round.
        average: Of the clients' heads.
        learning_rate: 1 gives the average itself, to the last bit.
    """
    if learning_rate == 1:
        return average
    return {
        name: (old.double() + learning_rate * (average[name].double() - old.double())).to(old.dtype)
        for name, old in head.items()
    }


def client_shares(updates: Sequence[ClientUpdate], weighted: bool) -> Float[Tensor, " clients"]:
    """Weight of each client: its share of the images (W), or the same for all."""
    counts = torch.tensor(
        [update.num_images if weighted else 1 for update in updates], dtype=torch.float64
    )
    return counts / counts.sum()


def expected_tensors(
    state: GlobalState, federation: FederationConfig, task: Task
) -> dict[str, Tensor]:
    """Stand-ins for what a client has to send: names, shapes and dtypes."""
    centroids = state.model.centroids
    counts = torch.zeros(len(centroids), dtype=torch.int64)
    if task == "moments":
        first = torch.zeros(len(state.plan.mean_feature), dtype=torch.float64)
        second = first.expand(len(first), len(first))
        return {"second": second, "first": first, "count": torch.tensor(0)}
    if task == "lloyd":
        sums = torch.zeros(centroids.shape, dtype=torch.float64)
        return {} if keeps_own_models(federation) else {"sums": sums, "counts": counts}
    expected = dict(state.model.head) if federation.aggregate_heads else {}
    if sends_centroids(federation):
        expected["centroids"] = centroids
        if federation.strategy == CONSENSUS:
            expected |= {"counts": counts, "cosines": counts.double()}
    return expected
