"""How the server turns client updates into the next global state.

Heads are averaged (Eq. 8); what differs is the rule for the centroids. To add a strategy, write its
rule as a function here and name it in `STRATEGIES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config import FederationConfig, LocalConfig
from fusseg.errors import ConfigError, nearest_name
from fusseg.federation.checks import check_updates
from fusseg.federation.clustering import Distance, kmeans, maximin
from fusseg.federation.consensus import consensus_centroids
from fusseg.federation.lloyd import CodeSums, move_centroids
from fusseg.federation.moments import (
    add_moments,
    pca_head,
    principal_components,
    starting_centroids,
)
from fusseg.federation.schedule import LLOYD, PCA
from fusseg.federation.state import CentroidUsage, ClientUpdate, GlobalState, Task
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.training import Model


@dataclass(frozen=True)
class PooledCentroids:
    """The centroids of all clients, sorted by client."""

    centroids: Float[Tensor, "clients clusters code"]
    shares: Float[Tensor, " clients"]
    """Weight of each client, summing to 1; float64."""
    previous: Float[Tensor, "clusters code"]
    """Global centroids of the round before."""
    round_number: int
    """Of the round that ends with these centroids, from 1."""
    usages: tuple[CentroidUsage, ...] = ()
    """One per client, for consensus."""

    @property
    def rows(self) -> Float[Tensor, "pooled code"]:
        """The unweighted pool (Eq. 10)."""
        return self.centroids.flatten(0, 1)


CONSENSUS = "consensus"
CentroidRule = Callable[[PooledCentroids, Distance, Generator], Tensor]


def average_centroids(
    pool: PooledCentroids, _distance: Distance, _generator: Generator
) -> Float[Tensor, "clusters code"]:
    """Average centroids index by index, as if index k meant the same everywhere (Eq. 9)."""
    return torch.einsum("n,nkc->kc", pool.shares, pool.centroids.double()).to(pool.centroids.dtype)


def cluster_centroids(
    pool: PooledCentroids, distance: Distance, generator: Generator
) -> Float[Tensor, "clusters code"]:
    """Replace the pooled centroids by their k-means centers (FedCC k-means, Eq. 11)."""
    return kmeans(pool.rows, pool.centroids.shape[1], distance, generator)


def spread_centroids(
    pool: PooledCentroids, distance: Distance, generator: Generator
) -> Float[Tensor, "clusters code"]:
    """Keep the most distant of the pooled centroids (FedCC maximin, Eq. 12)."""
    return maximin(pool.rows, pool.centroids.shape[1], distance, generator)


def agree_on_centroids(
    pool: PooledCentroids, _distance: Distance, generator: Generator
) -> Float[Tensor, "clusters code"]:
    """Cluster the centroids, each weighed by what it stands for (consensus, ours)."""
    return consensus_centroids(
        pool.centroids,
        torch.stack([usage.counts for usage in pool.usages]),
        torch.stack([usage.cosines for usage in pool.usages]),
        pool.previous,
        generator if pool.round_number == 1 else None,
    )


STRATEGIES: dict[str, CentroidRule] = {
    "fedavg": average_centroids,
    "fedcc-kmeans": cluster_centroids,
    "fedcc-maximin": spread_centroids,
    CONSENSUS: agree_on_centroids,
}
"""Rules for the centroids that clients send after training."""
SUMS_ONLY = (LLOYD, PCA)
"""Strategies under which no client ever sends a centroid."""
LOCAL, CENTRALIZED = "local", "centralized"
BASELINES = (LOCAL, CENTRALIZED)
"""No aggregation at all, and one client that holds the pooled images."""


def resolve_federation(
    federation: FederationConfig, local: LocalConfig | None = None
) -> FederationConfig:
    """Put a baseline in terms of a strategy and its switches, and refuse what cannot be combined.

    `local` is FedAvg with neither heads nor centroids aggregated; `centralized` is FedAvg over its
    one client.

    Args:
        federation: Strategy and switches.
        local: Whose regularizers must suit the strategy; None: not looked at.

    Raises:
        ConfigError: If there is no strategy or baseline of that name, or it cannot be combined
            with a switch or a regularizer.
    """
    name = federation.strategy
    if name not in (*STRATEGIES, *SUMS_ONLY, *BASELINES):
        known = [*STRATEGIES, *SUMS_ONLY, *BASELINES]
        raise ConfigError(f"unknown federation.strategy {name!r}; {nearest_name(name, known)}")
    _check_switches(federation)
    if local is not None:
        _check_regularizers(federation, local)
    if name == LOCAL:
        return replace(
            federation, strategy="fedavg", aggregate_heads=False, aggregate_centroids=False
        )
    if name == CENTRALIZED:
        return replace(
            federation, strategy="fedavg", aggregate_heads=True, aggregate_centroids=True
        )
    return federation


def _check_switches(federation: FederationConfig) -> None:
    name = federation.strategy
    if name in SUMS_ONLY and keeps_own_models(federation):
        raise ConfigError(
            f"federation.strategy {name!r} needs one head and one set of centroids for all "
            "clients; set federation.aggregate_heads and federation.aggregate_centroids to true"
        )
    if name == PCA and federation.lloyd_rounds == 0:
        raise ConfigError(
            "federation.strategy 'pca' gets its centroids from Lloyd steps alone, but "
            "federation.lloyd_rounds is 0; set it to 10 or more"
        )


def _check_regularizers(federation: FederationConfig, local: LocalConfig) -> None:
    without_head = federation.strategy in (*BASELINES, PCA)
    for key in ("fedprox_weight", "fedmoon_weight"):
        if getattr(local, key) == 0:
            continue
        if without_head:
            raise ConfigError(
                f"local.{key} is {getattr(local, key)}, but federation.strategy "
                f"{federation.strategy!r} sends no global head to clients in training; set it to "
                "0, or choose another strategy"
            )
        if not federation.aggregate_heads:
            raise ConfigError(
                f"local.{key} is {getattr(local, key)}, but federation.aggregate_heads is false: "
                "there is no global head to stay near; set one of them otherwise"
            )


def keeps_own_models(federation: FederationConfig) -> bool:
    """Whether a part of the model stays with each client (E or C off)."""
    return not (federation.aggregate_heads and federation.aggregate_centroids)


def sends_centroids(federation: FederationConfig) -> bool:
    """Whether clients send centroids after training."""
    return federation.aggregate_centroids and federation.strategy not in SUMS_ONLY


def aggregate(
    state: GlobalState,
    updates: Sequence[ClientUpdate],
    federation: FederationConfig,
    generator: Generator,
    task: Task = "train",
) -> GlobalState:
    """Merge one exchange's updates into the next global state; the round's number stays.

    Args:
        state: State the clients started from; what stays with the clients stays as it is.
        updates: One update per client that answered, in any order.
        federation: Strategy, distance and the three switches, with baselines resolved.
        generator: The server's random source of this round.
        task: What the clients were asked for.

    Raises:
        FederationError: If no client answered, or what one sent does not fit.
    """
    updates = sorted(updates, key=lambda update: update.client_id)
    check_updates(state, updates, _expected(state, federation, task))
    if task == "lloyd" and keeps_own_models(federation):
        return state
    return replace(state, model=MERGES[task](state, updates, federation, generator))


def merge_trained(
    state: GlobalState,
    updates: Sequence[ClientUpdate],
    federation: FederationConfig,
    generator: Generator,
) -> Model:
    """Average the heads and apply the strategy's rule to the centroids."""
    shares = client_shares(updates, federation.weighted)
    head, centroids = state.model.head, state.model.centroids
    if federation.aggregate_heads:
        head = average_heads([update.head for update in updates if update.head], shares)
    if sends_centroids(federation):
        pool = PooledCentroids(
            centroids=torch.stack([u.centroids for u in updates if u.centroids is not None]),
            shares=shares,
            previous=centroids,
            round_number=state.round_number + 1,
            usages=tuple(update.usage for update in updates if update.usage is not None),
        )
        centroids = STRATEGIES[federation.strategy](pool, federation.distance, generator)
    return Model(head, centroids)


def merge_sums(
    state: GlobalState,
    updates: Sequence[ClientUpdate],
    _federation: FederationConfig,
    _generator: Generator,
) -> Model:
    """Move the centroids by the clients' sums: one Lloyd step."""
    parts = [update.code_sums for update in updates if update.code_sums is not None]
    total = CodeSums(
        sums=torch.stack([part.sums for part in parts]).sum(dim=0),
        counts=torch.stack([part.counts for part in parts]).sum(dim=0),
    )
    return Model(state.model.head, move_centroids(state.model.centroids, total))


def merge_moments(
    state: GlobalState,
    updates: Sequence[ClientUpdate],
    _federation: FederationConfig,
    generator: Generator,
) -> Model:
    """Make the head of the principal components, and centroids to start Lloyd from."""
    num_clusters, code_dim = state.model.centroids.shape
    moments = add_moments([update.moments for update in updates if update.moments is not None])
    directions, variances, mean = principal_components(moments, code_dim)
    return Model(pca_head(directions, mean), starting_centroids(variances, num_clusters, generator))


Merge = Callable[[GlobalState, Sequence[ClientUpdate], FederationConfig, Generator], Model]
MERGES: dict[Task, Merge] = {
    "train": merge_trained,
    "lloyd": merge_sums,
    "moments": merge_moments,
}


def average_heads(heads: Sequence[HeadWeights], shares: Float[Tensor, " clients"]) -> HeadWeights:
    """Average heads by the clients' shares (Eq. 8), in float64 and in the given order."""
    return {
        name: torch.einsum(
            "n,n...->...", shares, torch.stack([head[name] for head in heads]).double()
        ).to(weight.dtype)
        for name, weight in heads[0].items()
    }


def client_shares(updates: Sequence[ClientUpdate], weighted: bool) -> Float[Tensor, " clients"]:
    """Weight of each client: its share of the images (W), or the same for all."""
    counts = torch.tensor(
        [update.num_images if weighted else 1 for update in updates], dtype=torch.float64
    )
    return counts / counts.sum()


def _expected(state: GlobalState, federation: FederationConfig, task: Task) -> dict[str, Tensor]:
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
