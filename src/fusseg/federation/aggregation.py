"""How the server turns client updates into the next global state."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config import FederationConfig
from fusseg.federation.checks import check_updates
from fusseg.federation.lloyd import CodeSums, move_centroids
from fusseg.federation.moments import (
    add_moments,
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
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.training import Model


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
    check_updates(state, updates, expected_tensors(state, federation, task))
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
        average = average_heads([update.head for update in updates if update.head], shares)
        head = step_towards(head, average, federation.server_learning_rate)
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
