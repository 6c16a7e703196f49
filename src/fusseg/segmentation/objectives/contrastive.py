"""A contrastive objective (InfoNCE; FUSS paper, Eq. 2, in general form): near positions attract.

In this order: settings, label-free estimates of the two cosines, the draw of a step, its losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.config.ranges import at_least
from fusseg.core.errors import ConfigError
from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.head import HeadWeights, narrow, project
from fusseg.segmentation.losses import clustering_loss, contrastive_loss
from fusseg.segmentation.objective import Draw, LocalTraining, Losses, Numbers, Objective, Step
from fusseg.segmentation.sampling import draw_kept, drop_channels, query_batches

POSITIVE, NEGATIVE = "positive_cosine", "negative_cosine"
"""The agreed numbers: pairs above the first attract, pairs below the second repel each other."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings:
    """The table `[local.contrastive]`."""

    positions: int = 121
    """Random positions per image and step; all positions of a batch form pairs."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """How codes are compared."""
    temperature: float = 0.1
    """Divides the similarity of codes."""
    positives: Literal["nearest"] | float = 0.9
    """Quantile of the features' cosines above which a pair is positive, in (0, 1); or `nearest`."""
    negatives: Literal["random"] | float = 0.5
    """Quantile of the features' cosines below which a pair is negative, in (0, 1); or `random`."""
    nearest: int = 1
    """Positives of each position, those with the most similar features; only for `nearest`."""
    random_negatives: int = 64
    """Negatives drawn for each position, with replacement; only for `random`."""
    quantile_batches: int = 8
    """Batches sampled for the quantiles."""
    dropout: float = 0.1
    """Share of feature channels dropped per image, in [0, 1)."""
    separation_weight: float = 0.0
    """Weight of the penalty on similar centroids (lambda in Eq. 5)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a count, weight, temperature or quantile is out of range, or if the
                quantile of the negatives is above that of the positives.
        """
        for name in ("positions", "nearest", "random_negatives", "quantile_batches"):
            at_least(f"local.contrastive.{name}", getattr(self, name), 1, 10_000)
        at_least("local.contrastive.temperature", self.temperature, 0.001)
        at_least("local.contrastive.separation_weight", self.separation_weight, 0)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"local.contrastive.dropout must lie in [0, 1), got {self.dropout}")
        for name in ("positives", "negatives"):
            quantile = getattr(self, name)
            if not isinstance(quantile, str) and not 0 < quantile < 1:
                raise ConfigError(f"local.contrastive.{name} must lie in (0, 1), got {quantile}")
        if (
            not isinstance(self.positives, str)
            and not isinstance(self.negatives, str)
            and self.negatives > self.positives
        ):
            raise ConfigError(
                f"local.contrastive.negatives is {self.negatives}, above "
                f"local.contrastive.positives ({self.positives}): a pair would be positive and "
                "negative; lower it"
            )


def quantiles_of(settings: ContrastiveSettings) -> dict[str, float]:
    """Name the quantiles of the settings; none for `nearest` and `random`."""
    found = {POSITIVE: settings.positives, NEGATIVE: settings.negatives}
    return {name: quantile for name, quantile in found.items() if not isinstance(quantile, str)}


def estimated_cosines(settings: ContrastiveSettings) -> dict[str, tuple[float, float]]:
    """Name the cosines that clients estimate, each with its bounds."""
    return dict.fromkeys(quantiles_of(settings), (-1.0, 1.0))


def estimate_cosines(
    features: FeatureSet, mean_feature: Float[Tensor, " dim"], local: LocalTraining, rng: Generator
) -> Numbers:
    """Estimate one client's cosines: quantiles over all pairs of different positions.

    Args:
        features: Features of the client's images.
        mean_feature: Subtracted from every feature; zeros if features are not centered.
        local: The quantiles, the number of batches, and how they are drawn.
        rng: Random source.
    """
    settings: ContrastiveSettings = local.settings
    quantiles = quantiles_of(settings)
    if not quantiles:
        return {}
    sampled = []
    steps = draw_steps(len(features), features.map_shape, None, local, rng)
    for _ in range(settings.quantile_batches):
        step = next(steps)
        drawn = features.gather(step.images, step.positions).sub_(mean_feature).flatten(0, 1)
        sampled.append(pair_cosines(drawn)[different_places(step.tensors["places"])])
    cosines = torch.cat(sampled).numpy()
    # Rounding may take a cosine past 1 by a last digit.
    return {
        name: min(1.0, max(-1.0, float(np.quantile(cosines, quantile))))
        for name, quantile in quantiles.items()
    }


def draw_steps(
    num_images: int,
    map_shape: tuple[int, int, int],
    _prepared: None,
    local: LocalTraining,
    rng: Generator,
) -> Iterator[Draw]:
    """Draw images, positions, the channels to keep, and random negatives if they are wanted."""
    height, width, dim = map_shape
    settings: ContrastiveSettings = local.settings
    count = local.batch_size * settings.positions
    for images in query_batches(num_images, local.batch_size, rng):
        shape = (len(images), settings.positions)
        positions = torch.randint(height * width, shape, generator=rng)
        places = (images[:, None] * (height * width) + positions).flatten()
        tensors = {"places": places, "kept": draw_kept(len(images), dim, settings.dropout, rng)}
        if settings.negatives == "random":
            wanted = (count, settings.random_negatives)
            tensors["random"] = torch.randint(count, wanted, generator=rng)
        yield Draw(images, positions, tensors)


def pair_cosines(
    features: Float[Tensor, "places dim"], precision: torch.dtype | None = None
) -> Float[Tensor, "places places"]:
    """Compute the cosines of all pairs of features.

    Args:
        features: Centered features.
        precision: Precision of the product; None: that of the features.
    """
    directions = normalize(features, dim=1).to(precision or features.dtype)
    return directions @ directions.T


def different_places(places: Int[Tensor, " places"]) -> Bool[Tensor, "places places"]:
    """Tell which pairs are of two places: a position is no pair of itself, however often drawn."""
    return places[:, None] != places


def choose_pairs(
    features: Float[Tensor, "places dim"],
    drawn: dict[str, Tensor],
    agreed: Numbers,
    settings: ContrastiveSettings,
    precision: torch.dtype,
) -> tuple[Bool[Tensor, "places places"], Bool[Tensor, "places places"]]:
    """Choose the positives P(i) and the negatives N(i) of every position i from frozen features.

    Args:
        features: Centered features.
        drawn: `places`: image and position as one number; `random`: candidates for negatives.
        agreed: The cosines that bound positives and negatives, unless they are chosen otherwise.
        settings: How both are chosen.
        precision: Precision of the product.

    Returns:
        Row i of the first has the positives of i, row i of the second its negatives. No pair is
        both, and none is of one place.
    """
    cosines = pair_cosines(features, precision)
    others = different_places(drawn["places"])
    if settings.positives == "nearest":
        count = min(settings.nearest, len(features) - 1)
        nearest = cosines.masked_fill(~others, -torch.inf).topk(count, dim=1).indices
        positive = torch.zeros_like(others).scatter(1, nearest, value=True) & others
    else:
        positive = (cosines > agreed[POSITIVE]) & others
    if settings.negatives == "random":
        negative = torch.zeros_like(others).scatter(1, drawn["random"], value=True)
    else:
        negative = cosines < agreed[NEGATIVE]
    return positive, negative & others & ~positive


def step_losses(
    weights: HeadWeights,
    centroids: Float[Tensor, "clusters code"],
    step: Step,
    agreed: Numbers,
    settings: ContrastiveSettings,
    precision: torch.dtype,
) -> Losses:
    """Compute the contrastive loss of the head (Eq. 2), and the centroids' loss (Eq. 5).

    Args:
        weights: Head in training.
        centroids: Centroids in training.
        step: Features of the images; `kept`: the channels of each that are not dropped; the rest
            as in `choose_pairs`.
        agreed: As in `choose_pairs`.
        settings: Similarity, temperature and dropout.
        precision: Precision of the matrix products.
    """
    drawn = dict(step.drawn)
    dropped = drop_channels(step.features, drawn["kept"], settings.dropout).to(precision)
    codes = project(narrow(weights, precision), dropped).to(step.features.dtype)
    flat = codes.flatten(0, 1)
    positive, negative = choose_pairs(
        step.features.flatten(0, 1), drawn, agreed, settings, precision
    )
    compared = normalize(flat, dim=1) if settings.similarity == "cosine" else flat
    scaled = (compared / settings.temperature).to(precision)
    similarities = (scaled @ compared.to(precision).T).to(flat.dtype)
    head_loss = contrastive_loss(similarities, positive, negative)
    centroid_loss = clustering_loss(flat.detach(), centroids, settings.separation_weight)
    return Losses(head_loss, centroid_loss, dropped, codes)


def step_memory(feature_dim: int, local: LocalTraining) -> int:
    """Estimate the bytes of a client's step: features, pairs, weights and Adam's state."""
    settings: ContrastiveSettings = local.settings
    positions = local.batch_size * settings.positions
    features = 6 * positions * feature_dim
    pairs = 8 * positions**2
    weights = 6 * feature_dim * (feature_dim + 2 * feature_dim)
    return 4 * (features + pairs + weights)


OBJECTIVE = Objective(
    settings=ContrastiveSettings,
    estimated=estimated_cosines,
    estimate=estimate_cosines,
    draw=draw_steps,
    loss=step_losses,
    memory=step_memory,
)
