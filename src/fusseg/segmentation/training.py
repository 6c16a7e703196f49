"""Train head and centroids on one client's features (method section 3)."""

from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.optim import Adam

from fusseg.config import LocalConfig
from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.head import HeadWeights, SegmentationHead, build_head
from fusseg.segmentation.losses import (
    center_correspondence,
    clustering_loss,
    correspondence_loss,
)
from fusseg.segmentation.regularizers import References, freeze_references, regularization
from fusseg.segmentation.sampling import (
    Batch,
    draw_batch,
    drop_channels,
    pair_up,
    query_batches,
)
from fusseg.segmentation.shifts import Shift


@dataclass(frozen=True)
class Model:
    """What is trained: the head's weights and the centroids."""

    head: HeadWeights
    centroids: Float[Tensor, "clusters code"]


@dataclass(frozen=True)
class TrainingPlan:
    """What all clients agreed on before round 1 (method section 2)."""

    num_steps: int
    """Optimizer steps per round, the same for every client."""
    mean_feature: Float[Tensor, " dim"]
    """Subtracted from every feature; zeros where nothing is centered."""
    shift: Shift


def train(
    model: Model,
    features: FeatureSet,
    nearest: Int[Tensor, "images neighbors"],
    plan: TrainingPlan,
    local: LocalConfig,
    generator: Generator,
    previous: HeadWeights | None = None,
) -> tuple[Model, float]:
    """Train for one round, with fresh optimizers.

    Args:
        model: Where training starts; left as it is.
        features: The client's images.
        nearest: Nearest images of each image.
        plan: Number of steps, mean feature and shifts.
        local: Everything else about a step.
        generator: The client's random source of this round.
        previous: The client's own head after its previous round, for FedMOON; None in its first.

    Returns:
        The trained model and the mean loss over the steps (Eq. 7).
    """
    head = build_head(model.head)
    centroids = model.centroids.clone().requires_grad_(True)
    head_optimizer = Adam(head.parameters(), lr=local.head_learning_rate)
    centroid_optimizer = Adam([centroids], lr=local.centroid_learning_rate)
    references = freeze_references(model.head, previous, local)
    total = 0.0
    batches = query_batches(len(features), local.batch_size, generator)
    for queries in islice(batches, plan.num_steps):
        batch = draw_batch(features, nearest, queries, plan.mean_feature, local, generator)
        head_loss, codes = head_objective(head, batch, plan.shift, local, generator, references)
        centroid_loss = clustering_loss(codes.detach(), centroids, local.separation_weight)
        head_optimizer.zero_grad()
        centroid_optimizer.zero_grad()
        (head_loss + centroid_loss).backward()  # type: ignore[no-untyped-call]
        head_optimizer.step()
        centroid_optimizer.step()
        total += head_loss.item() + centroid_loss.item()
    weights = {name: weight.detach().clone() for name, weight in head.state_dict().items()}
    return Model(weights, centroids.detach()), total / plan.num_steps


def head_objective(
    head: SegmentationHead,
    batch: Batch,
    shift: Shift,
    local: LocalConfig,
    generator: Generator,
    references: References | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "codes code"]]:
    """Weighted sum of Eq. 6 over the three kinds of pairs, plus the regularizers that are on.

    Unlike the paper, only the sampled positions pass through the head and not whole maps; the head
    works position by position, so that the loss at these positions is the same.

    Args:
        head: Head in training.
        batch: Sampled features.
        shift: One per kind of pair.
        local: Weights and dropout.
        generator: Random source of the dropout.
        references: Frozen heads of the regularizers; None: none is on.

    Returns:
        The loss, and the codes of all positions of queries and neighbors.
    """
    dropped = drop_channels(torch.cat([batch.queries, batch.neighbors]), local.dropout, generator)
    codes = head(dropped)
    query_codes, neighbor_codes = codes.chunk(2)
    features = pair_up(batch.queries, batch.neighbors, batch.partners)
    agreement = pair_up(query_codes, neighbor_codes, batch.partners)
    random_losses = [
        correspondence_loss(center_correspondence(cosines), code_cosines, shift[2])
        for cosines, code_cosines in zip(features.with_random, agreement.with_random, strict=True)
    ]
    loss = (
        local.self_weight
        * correspondence_loss(
            center_correspondence(features.with_self), agreement.with_self, shift[0]
        )
        + local.neighbor_weight
        * correspondence_loss(
            center_correspondence(features.with_neighbor), agreement.with_neighbor, shift[1]
        )
        + local.random_weight * torch.stack(random_losses).mean()
    )
    if references is not None:
        loss = loss + regularization(head, dropped, codes, references, local)
    return loss, codes.flatten(0, 1)
