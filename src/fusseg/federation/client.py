"""The client's half of a round."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fusseg.compute import EXACT, Compute
from fusseg.config import FederationConfig, LocalConfig
from fusseg.errors import FederationError
from fusseg.features.feature_set import FeatureSet
from fusseg.features.neighbors import cached_neighbors
from fusseg.federation.lloyd import move_centroids, sum_codes
from fusseg.federation.moments import sum_moments
from fusseg.federation.points import KeptCodes, feature_chunks, sample_positions, unit_codes
from fusseg.federation.schedule import num_training_rounds
from fusseg.federation.state import CentroidUsage, ClientUpdate, GlobalState, Task
from fusseg.federation.strategies import CONSENSUS, keeps_own_models, sends_centroids
from fusseg.randomness import round_generator
from fusseg.segmentation.training import Model, Trainee, train


@dataclass(frozen=True)
class Client:
    """A participant and the features of its private images."""

    client_id: str
    features: FeatureSet
    cache: Path
    """Where its nearest neighbors are kept."""
    compute: Compute = EXACT
    """With what it trains."""


def answer(
    state: GlobalState,
    task: Task,
    own: Model | None,
    client: Client,
    local: LocalConfig,
    federation: FederationConfig,
    kept: KeptCodes,
) -> tuple[ClientUpdate, Model | None]:
    """Do what the server asks one client for, in simulation and in deployment.

    Args:
        state: As the client received it.
        task: What is asked for.
        own: The client's own model after its last round; None before its first.
        client: Who answers.
        local: How a step is done.
        federation: Which parts are sent, with baselines resolved.
        kept: Codes of earlier Lloyd steps; it holds the seed of the experiment.

    Returns:
        What is sent, and the client's own model afterwards.

    Raises:
        FederationError: If training diverged.
    """
    if task == "train":
        return train_locally(state, own, client, local, federation, kept.seed)
    if task == "lloyd":
        head = current_model(state, own, federation).head
        codes = kept.of_client(client.client_id, client.features, head, state.plan.mean_feature)
        return take_lloyd_step(state, own, client, federation, codes)
    return measure_moments(state, client, federation, kept.seed), own


def remembers_own_model(federation: FederationConfig, local: LocalConfig) -> bool:
    """Whether a client needs its own model again in its next round: E or C off, or FedMOON."""
    return keeps_own_models(federation) or local.fedmoon_weight > 0


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
    trainee = start_training(state, own, client, local, federation, seed)
    trained, loss = train(trainee, state.plan, local, client.compute)
    return report_training(state, trained, loss, client, local, federation, seed), trained


def start_training(
    state: GlobalState,
    own: Model | None,
    client: Client,
    local: LocalConfig,
    federation: FederationConfig,
    seed: int,
) -> Trainee:
    """Put together where a client's round starts; the arguments are those of `train_locally`."""
    mean_feature = state.plan.mean_feature
    return Trainee(
        model=current_model(state, own, federation),
        features=client.features,
        nearest=cached_neighbors(client.features, mean_feature, local.neighbors, client.cache),
        generator=round_generator(seed, state.round_number + 1, client.client_id),
        # FedMOON compares with the head of the client's own last round, whatever was averaged.
        previous=None if own is None else own.head,
    )


def report_training(
    state: GlobalState,
    trained: Model,
    loss: float,
    client: Client,
    local: LocalConfig,
    federation: FederationConfig,
    seed: int,
) -> ClientUpdate:
    """Write the update of a client that has trained.

    Raises:
        FederationError: If training diverged.
    """
    if not (math.isfinite(loss) and _is_finite(trained)):
        raise FederationError(
            f"training of client {client.client_id!r} diverged in round {state.round_number + 1} "
            f"(loss {loss}); lower local.head_learning_rate ({local.head_learning_rate}) or "
            f"local.centroid_learning_rate ({local.centroid_learning_rate})"
        )
    return ClientUpdate(
        client_id=client.client_id,
        num_images=len(client.features),
        head=trained.head if federation.aggregate_heads else None,
        centroids=trained.centroids if sends_centroids(federation) else None,
        loss=loss,
        usage=_use(trained, client, state, federation, seed)
        if federation.strategy == CONSENSUS and federation.aggregate_centroids
        else None,
    )


def take_lloyd_step(
    state: GlobalState,
    own: Model | None,
    client: Client,
    federation: FederationConfig,
    codes: Iterable[Float[Tensor, "_ code"]],
) -> tuple[ClientUpdate, Model | None]:
    """Sum the codes nearest to each centroid (method section 3b).

    Where the client has a head or centroids of its own it moves its own centroids, and sends
    nothing.

    Args:
        state: Global state.
        own: The client's own model, as in `train_locally`.
        client: Whose codes these are.
        federation: Which parts are shared, with baselines resolved.
        codes: Of the client's sampled positions under its head, of unit length, in chunks.

    Returns:
        What is sent, and the client's own model after the step.
    """
    model = current_model(state, own, federation)
    found = sum_codes(codes, model.centroids)
    update = ClientUpdate(client.client_id, len(client.features))
    if keeps_own_models(federation):
        return update, Model(model.head, move_centroids(model.centroids, found))
    return replace(update, code_sums=found), own


def measure_moments(
    state: GlobalState, client: Client, federation: FederationConfig, seed: int
) -> ClientUpdate:
    """Sum the features of the sampled positions and their outer products (for PCA)."""
    positions = sample_positions(client.features, federation.positions_per_image, seed)
    chunks = feature_chunks(client.features, positions, state.plan.mean_feature)
    moments = sum_moments(chunks, len(state.plan.mean_feature))
    return ClientUpdate(client.client_id, len(client.features), moments=moments)


def current_model(state: GlobalState, own: Model | None, federation: FederationConfig) -> Model:
    """Put together the model a client works with: shared parts, and those that stay with it.

    In the Lloyd finish centroids stay with a client as soon as its head does: sums of codes of
    different heads mean nothing.

    Args:
        state: Global state.
        own: The client's own model; None before its first round.
        federation: Which parts are shared, with baselines resolved.
    """
    shared = state.model
    if own is None:
        return shared
    finishing = state.round_number > num_training_rounds(federation)
    own_centroids = not federation.aggregate_centroids or (
        finishing and not federation.aggregate_heads
    )
    return Model(
        head=shared.head if federation.aggregate_heads else own.head,
        centroids=own.centroids if own_centroids else shared.centroids,
    )


def _use(
    trained: Model, client: Client, state: GlobalState, federation: FederationConfig, seed: int
) -> CentroidUsage:
    """Count what the client's centroids stand for, over its sampled positions."""
    positions = sample_positions(client.features, federation.positions_per_image, seed)
    codes = unit_codes(trained.head, client.features, positions, state.plan.mean_feature)
    found = sum_codes(codes, trained.centroids)
    return CentroidUsage(found.counts, found.mean_cosines(trained.centroids))


def _is_finite(model: Model) -> bool:
    return all(bool(part.isfinite().all()) for part in (*model.head.values(), model.centroids))
