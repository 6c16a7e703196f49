"""How the server turns client updates into the next global state.

Heads are averaged (Eq. 8); what differs is the rule for the centroids. To add a strategy, write its
rule as a function here and name it in `STRATEGIES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config import FederationConfig
from fusseg.errors import ConfigError, FederationError, nearest_name
from fusseg.federation.clustering import Distance, kmeans, maximin
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.training import Model


@dataclass(frozen=True)
class PooledCentroids:
    """The centroids of all clients, sorted by client."""

    centroids: Float[Tensor, "clients clusters code"]
    shares: Float[Tensor, " clients"]
    """Weight of each client, summing to 1; float64."""

    @property
    def rows(self) -> Float[Tensor, "pooled code"]:
        """The unweighted pool (Eq. 10)."""
        return self.centroids.flatten(0, 1)


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


STRATEGIES: dict[str, CentroidRule] = {
    "fedavg": average_centroids,
    "fedcc-kmeans": cluster_centroids,
    "fedcc-maximin": spread_centroids,
}
LOCAL, CENTRALIZED = "local", "centralized"
BASELINES = (LOCAL, CENTRALIZED)
"""No aggregation at all, and one client that holds the pooled images."""


def resolve_federation(federation: FederationConfig) -> FederationConfig:
    """Put a baseline in terms of a strategy and its switches.

    `local` is FedAvg with neither heads nor centroids aggregated; `centralized` is FedAvg over its
    one client.

    Raises:
        ConfigError: If there is no strategy or baseline of that name.
    """
    name = federation.strategy
    if name in STRATEGIES:
        return federation
    if name == LOCAL:
        return replace(
            federation, strategy="fedavg", aggregate_heads=False, aggregate_centroids=False
        )
    if name == CENTRALIZED:
        return replace(
            federation, strategy="fedavg", aggregate_heads=True, aggregate_centroids=True
        )
    raise ConfigError(
        f"unknown federation.strategy {name!r}; {nearest_name(name, [*STRATEGIES, *BASELINES])}"
    )


def keeps_own_models(federation: FederationConfig) -> bool:
    """Whether a part of the model stays with each client (E or C off)."""
    return not (federation.aggregate_heads and federation.aggregate_centroids)


def aggregate(
    state: GlobalState,
    updates: Sequence[ClientUpdate],
    federation: FederationConfig,
    generator: Generator,
) -> GlobalState:
    """Merge one round's updates into the next global state.

    Args:
        state: State the clients started from; what stays with the clients stays as it is.
        updates: One update per client that answered, in any order.
        federation: Strategy, distance and the three switches, with baselines resolved.
        generator: The server's random source of this round.

    Raises:
        FederationError: If no client answered, or what one sent does not fit.
    """
    updates = sorted(updates, key=lambda update: update.client_id)
    _check_updates(state, updates, federation)
    shares = client_shares(updates, federation.weighted)
    head, centroids = state.model.head, state.model.centroids
    if federation.aggregate_heads:
        head = average_heads([update.head for update in updates if update.head], shares)
    if federation.aggregate_centroids:
        stacked = torch.stack([u.centroids for u in updates if u.centroids is not None])
        rule = STRATEGIES[federation.strategy]
        centroids = rule(PooledCentroids(stacked, shares), federation.distance, generator)
    return replace(state, round_number=state.round_number + 1, model=Model(head, centroids))


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


def _check_updates(
    state: GlobalState, updates: Sequence[ClientUpdate], federation: FederationConfig
) -> None:
    if not updates:
        raise FederationError(f"no client answered in round {state.round_number + 1}")
    names = [update.client_id for update in updates]
    for name, following in pairwise(names):
        if name == following:
            raise FederationError(
                f"client {name!r} answered more than once in round {state.round_number + 1}"
            )
    for update in updates:
        if update.num_images < 1:
            raise FederationError(
                f"client {update.client_id!r} must have trained on at least 1 image, "
                f"got {update.num_images}"
            )
        expected = {
            **(state.model.head if federation.aggregate_heads else {}),
            **({"centroids": state.model.centroids} if federation.aggregate_centroids else {}),
        }
        sent = {**(update.head or {})}
        if update.centroids is not None:
            sent["centroids"] = update.centroids
        _check_tensors(update.client_id, sent, expected)


def _check_tensors(client_id: str, sent: HeadWeights, expected: HeadWeights) -> None:
    if sent.keys() != expected.keys():
        raise FederationError(
            f"client {client_id!r} sent {sorted(sent)}, expected {sorted(expected)}"
        )
    for name, tensor in sent.items():
        if tensor.shape != expected[name].shape:
            raise FederationError(
                f"client {client_id!r} sent {name} of shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if tensor.dtype != expected[name].dtype:
            raise FederationError(
                f"client {client_id!r} sent {name} as {tensor.dtype}, "
                f"expected {expected[name].dtype}"
            )
        if not bool(tensor.isfinite().all()):
            raise FederationError(
                f"client {client_id!r} sent {name} with values that are not finite"
            )
