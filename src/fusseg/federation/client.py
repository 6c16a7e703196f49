"""The client's half of a round."""

import math
from dataclasses import dataclass
from pathlib import Path

from fusseg.config import FederationConfig, LocalConfig
from fusseg.errors import FederationError
from fusseg.features.feature_set import FeatureSet
from fusseg.features.neighbors import cached_neighbors
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.randomness import round_generator
from fusseg.segmentation.training import Model, train


@dataclass(frozen=True)
class Client:
    """A participant and the features of its private images."""

    client_id: str
    features: FeatureSet
    cache: Path
    """Where its nearest neighbors are kept."""


def train_locally(
    state: GlobalState,
    own: Model | None,
    client: Client,
    local: LocalConfig,
    federation: FederationConfig,
    seed: int,
) -> tuple[ClientUpdate, Model]:
    """Train one round on one client's images.

    The result depends on the arguments alone, not on which process runs it or in which order the
    clients are visited.

    Args:
        state: Global state at the start of the round.
        own: The client's own model after its last round; needed only where its head (E off) or its
            centroids (C off) stay with it. None before its first round.
        client: Whose images are used.
        local: How a step is done.
        federation: Which parts are sent, with baselines resolved.
        seed: Seed of the experiment.

    Returns:
        What is sent, and the client's own trained model.

    Raises:
        FederationError: If training diverged.
    """
    start = state.model
    if own is not None:
        start = Model(
            head=start.head if federation.aggregate_heads else own.head,
            centroids=start.centroids if federation.aggregate_centroids else own.centroids,
        )
    plan = state.plan
    nearest = cached_neighbors(client.features, plan.mean_feature, local.neighbors, client.cache)
    generator = round_generator(seed, state.round_number + 1, client.client_id)
    trained, loss = train(start, client.features, nearest, plan, local, generator)
    if not (math.isfinite(loss) and _is_finite(trained)):
        raise FederationError(
            f"training of client {client.client_id!r} diverged in round {state.round_number + 1} "
            f"(loss {loss}); lower local.head_learning_rate ({local.head_learning_rate}) or "
            f"local.centroid_learning_rate ({local.centroid_learning_rate})"
        )
    update = ClientUpdate(
        client_id=client.client_id,
        num_images=len(client.features),
        head=trained.head if federation.aggregate_heads else None,
        centroids=trained.centroids if federation.aggregate_centroids else None,
        loss=loss,
    )
    return update, trained


def _is_finite(model: Model) -> bool:
    return all(bool(part.isfinite().all()) for part in (*model.head.values(), model.centroids))
