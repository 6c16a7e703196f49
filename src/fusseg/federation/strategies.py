"""The table of strategies: what becomes of the clients' centroids.

Heads are averaged (Eq. 8); what differs is the rule for the centroids. To add a strategy, write its
rule as a function here and name it in `STRATEGIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config import FederationConfig, LocalConfig
from fusseg.errors import ConfigError, nearest_name
from fusseg.federation.clustering import Distance, kmeans, maximin
from fusseg.federation.consensus import consensus_centroids
from fusseg.federation.schedule import LLOYD, PCA
from fusseg.federation.state import CentroidUsage


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
    if name in BASELINES and federation.clients_per_round:
        raise ConfigError(
            f"federation.clients_per_round is {federation.clients_per_round}, but "
            f"federation.strategy {name!r} is a baseline that trains on all images in every round; "
            "set it to 0"
        )
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
