"""What a step of training minimizes, for one client (method section 3)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusseg.config import LocalConfig
from fusseg.segmentation.head import HeadWeights, narrow, project
from fusseg.segmentation.losses import (
    center_correspondence,
    clustering_loss,
    correspondence_loss,
)
from fusseg.segmentation.pairing import pair_up
from fusseg.segmentation.regularizers import References, regularization
from fusseg.segmentation.sampling import Batch, drop_channels
from fusseg.segmentation.shifts import Shift


@dataclass(frozen=True)
class Objective:
    """What is the same in all steps of a round."""

    shift: Shift
    """One per kind of pair."""
    local: LocalConfig
    """Weights of the terms, and dropout."""
    precision: torch.dtype = torch.float32
    """Of the matrix products."""


def step_losses(
    weights: HeadWeights,
    centroids: Float[Tensor, "clusters code"],
    batch: Batch,
    kept: Bool[Tensor, "both 1 dim"],
    references: References | None,
    objective: Objective,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Compute both objectives of Eq. 7: of the head, and of the centroids.

    Args:
        weights: Head in training.
        centroids: Centroids in training.
        batch: Sampled features.
        kept: Channels of each image that are not dropped.
        references: Frozen heads of the regularizers; None: none is on.
        objective: Everything else.
    """
    head_loss, codes = head_objective(weights, batch, kept, references, objective)
    return head_loss, clustering_loss(codes.detach(), centroids, objective.local.separation_weight)


def head_objective(
    weights: HeadWeights,
    batch: Batch,
    kept: Bool[Tensor, "both 1 dim"],
    references: References | None,
    objective: Objective,
) -> tuple[Float[Tensor, ""], Float[Tensor, "codes code"]]:
    """Weighted sum of Eq. 6 over the three kinds of pairs, plus the regularizers that are on.

    Unlike the paper, only the sampled positions pass through the head and not whole maps; the head
    works position by position, so that the loss at these positions is the same.

    Args:
        weights: Head in training.
        batch: Sampled features.
        kept: Channels of each image that are not dropped.
        references: Frozen heads of the regularizers; None: none is on.
        objective: Everything else.

    Returns:
        The loss, and the codes of all positions of queries and neighbors.
    """
    shift, local, precision = objective.shift, objective.local, objective.precision
    dropped = drop_channels(batch.features, kept, local.dropout).to(precision)
    codes = project(narrow(weights, precision), dropped).to(batch.features.dtype)
    features = pair_up(batch.features, batch.partners, precision)
    agreement = pair_up(codes, batch.partners, precision)
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
        loss = loss + regularization(weights, dropped, codes, references, local)
    return loss, codes.flatten(0, 1)
