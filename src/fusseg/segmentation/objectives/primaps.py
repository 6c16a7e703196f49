"""PriMaPs-EM (arXiv 2404.16818): centroids learn one label for each mask of an image.

Only centroids are trained, so clients exchange K x D numbers in a round and no head. In this order:
settings, preparation of the masks, the draw of a step, its loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, normalize

from fusseg.config.ranges import above_zero, at_least
from fusseg.core.errors import ConfigError
from fusseg.features.feature_set import FeatureSet
from fusseg.features.principal_masks import (
    NO_MASK,
    ImageMasks,
    MaskSettings,
    open_masks,
    read_masks,
)
from fusseg.segmentation.head import HeadWeights, narrow, project
from fusseg.segmentation.losses import share_weights
from fusseg.segmentation.objective import Draw, LocalTraining, Losses, Numbers, Objective, Step
from fusseg.segmentation.sampling import query_batches
from fusseg.segmentation.teacher import FOLLOWING, TEACHER


@dataclass(frozen=True, kw_only=True)
class PrimapsSettings:
    """The table `[local.primaps]`."""

    positions: int = 121
    """Random positions per image and step."""
    threshold: float = 0.4
    """Smallest cosine of a mask's features to its seed, as a share of the largest, in (0, 1]."""
    coverage: float = 0.95
    """Share of an image's positions that its masks cover, in (0, 1]."""
    most_masks: int = 64
    """Most masks per image, which bounds the time of images without structure."""
    temperature: float = 0.1
    """Divides the cosines of codes and centroids."""
    focus: float = 2.0
    """Exponent of the weight of rare clusters (gamma)."""
    momentum: float = 0.98
    """Share of the teacher that stays in a step, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        at_least("local.primaps.positions", self.positions, 1, 10_000)
        at_least("local.primaps.most_masks", self.most_masks, 1, NO_MASK)
        at_least("local.primaps.temperature", self.temperature, 0.001)
        at_least("local.primaps.focus", self.focus, 0)
        for name in ("threshold", "coverage"):
            above_zero(f"local.primaps.{name}", getattr(self, name))
            at_least(f"local.primaps.{name}", getattr(self, name), 0, 1)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"local.primaps.momentum must lie in [0, 1), got {self.momentum}")


def find_masks(
    features: FeatureSet,
    mean_feature: Float[Tensor, " dim"],
    settings: PrimapsSettings,
    cache: Path,
) -> ImageMasks:
    """Open the masks of a client's images.

    They are computed around the client's own mean feature, so that this can be done before the
    federation's is known.

    Args:
        features: Features of the client's images.
        mean_feature: Zeros if features are not centered; otherwise any mean.
        settings: How masks are found.
        cache: Cache folder.
    """
    mean = features.mean_feature() if bool(mean_feature.any()) else mean_feature
    chosen = MaskSettings(settings.threshold, settings.coverage, settings.most_masks)
    return open_masks(features, mean, chosen, cache)


def draw_steps(
    num_images: int,
    map_shape: tuple[int, int, int],
    prepared: ImageMasks,
    local: LocalTraining,
    rng: Generator,
) -> Iterator[Draw]:
    """Draw images and positions, and look up the mask of each position."""
    height, width, _ = map_shape
    settings: PrimapsSettings = local.settings
    # Images come back in later steps; a byte per position of those that were drawn is little.
    look_up = lru_cache(maxsize=None)(partial(read_masks, prepared))
    for images in query_batches(num_images, local.batch_size, rng):
        shape = (len(images), settings.positions)
        positions = torch.randint(height * width, shape, generator=rng)
        masks = torch.stack([look_up(image) for image in images.tolist()])
        yield Draw(images, positions, {"masks": masks.gather(1, positions)})


def mask_labels(
    clusters: Int[Tensor, "images positions"],
    masks: Integer[Tensor, "images positions"],
    num_clusters: int,
) -> Int[Tensor, "images positions"]:
    """Give every position the most frequent cluster of its mask; of equally frequent, the lowest.

    >>> clusters, masks = torch.tensor([[2, 0, 2, 1]]), torch.tensor([[0, 0, 0, 1]])
    >>> mask_labels(clusters, masks, num_clusters=3)
    tensor([[2, 2, 2, 1]])

    Args:
        clusters: Cluster of each sampled position.
        masks: Mask of each, within its image.
        num_clusters: Number of clusters, K.
    """
    together = masks[:, :, None] == masks[:, None, :]
    one_hot = clusters[:, :, None] == torch.arange(num_clusters, device=clusters.device)
    return (together.float() @ one_hot.float()).argmax(dim=2)


def mask_loss(
    cosines: Float[Tensor, "positions clusters"],
    labels: Int[Tensor, " positions"],
    counted: Bool[Tensor, " positions"],
    temperature: float,
    focus: float,
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of labels; clusters that are rare in the batch weigh more.

    >>> cosines, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    >>> mask_loss(cosines, labels, torch.tensor([True, True]), temperature=0.1, focus=2.0)
    tensor(0.1733)

    Args:
        cosines: Cosines of codes and centroids.
        labels: Label of each position.
        counted: Whether a position is in a mask; others have no label.
        temperature: Divides the cosines.
        focus: Exponent gamma of the weight (1 - mean probability of the cluster), which has no
            gradient.

    Returns:
        Mean over the positions that count; 0 if none does.
    """
    logits = cosines / temperature
    weights = (1 - logits.detach().softmax(dim=1).mean(dim=0)) ** focus
    entropies = cross_entropy(logits, labels, reduction="none") * weights[labels]
    return (entropies * share_weights(counted, entropies.dtype)).mean()


def step_losses(
    weights: HeadWeights,
    centroids: Float[Tensor, "clusters code"],
    step: Step,
    _agreed: Numbers,
    settings: PrimapsSettings,
    precision: torch.dtype,
) -> Losses:
    """Compute the centroids' loss; that of the head is 0, because it is not trained.

    Args:
        weights: The head, as it was received.
        centroids: Centroids in training.
        step: Features of the images; `masks`: the mask of each position; carried: the teacher,
            whose clusters the masks vote on.
        settings: Temperature and focus.
        precision: Precision of the matrix products.
    """
    inputs = step.features.to(precision)
    codes = project(narrow(weights, precision), inputs).to(step.features.dtype)
    units, masks = normalize(codes, dim=2).to(precision), step.drawn["masks"]
    teacher = normalize(step.carried[TEACHER], dim=1).to(precision)
    labels = mask_labels((units @ teacher.T).argmax(dim=2), masks, len(centroids))
    directions = normalize(centroids, dim=1).to(precision)
    cosines = (units.flatten(0, 1) @ directions.T).to(step.features.dtype)
    loss = mask_loss(
        cosines,
        labels.flatten(),
        masks.flatten() != NO_MASK,
        settings.temperature,
        settings.focus,
    )
    return Losses(loss.new_zeros(()), loss, inputs, codes)


def step_memory(feature_dim: int, local: LocalTraining) -> int:
    """Estimate the bytes of a client's step: features, pairs of positions, and the head."""
    settings: PrimapsSettings = local.settings
    features = 4 * local.batch_size * settings.positions * feature_dim
    pairs = 2 * local.batch_size * settings.positions**2
    weights = feature_dim * (feature_dim + 2 * feature_dim)
    return 4 * (features + pairs + weights)


OBJECTIVE = Objective(
    settings=PrimapsSettings,
    prepare=find_masks,
    prepare_image=read_masks,
    draw=draw_steps,
    loss=step_losses,
    memory=step_memory,
    carry=FOLLOWING,
    trains_head=False,
)
