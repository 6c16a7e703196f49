"""SmooSeg (arXiv 2310.17874): codes are assigned alike where features are close.

In this order: settings, the draw of a step, its two losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, normalize

from fusseg.config.ranges import at_least
from fusseg.core.errors import ConfigError
from fusseg.segmentation.head import HeadWeights, narrow, project
from fusseg.segmentation.losses import share_weights
from fusseg.segmentation.objective import Draw, LocalTraining, Losses, Numbers, Objective, Step
from fusseg.segmentation.sampling import derangement, draw_kept, drop_channels, query_batches
from fusseg.segmentation.teacher import FOLLOWING, TEACHER


@dataclass(frozen=True, kw_only=True)
class SmoosegSettings:
    """The table `[local.smooseg]`."""

    positions: int = 121
    """Random positions per image and step."""
    within_shift: float = -0.02
    """Closeness below which two positions of an image should differ (b1)."""
    across_shift: float = 0.5
    """Closeness below which positions of two images should differ (b2)."""
    temperature: float = 0.1
    """Divides the cosines of codes and teacher."""
    dropout: float = 0.1
    """Share of feature channels dropped per image, in [0, 1)."""
    momentum: float = 0.998
    """Share of the teacher that stays in a step, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        at_least("local.smooseg.positions", self.positions, 1, 10_000)
        at_least("local.smooseg.temperature", self.temperature, 0.001)
        for name in ("within_shift", "across_shift"):
            # A cosine less a mean of cosines.
            at_least(f"local.smooseg.{name}", getattr(self, name), -2, 2)
        for name in ("dropout", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"local.smooseg.{name} must lie in [0, 1), got {getattr(self, name)}"
                )


def draw_steps(
    num_images: int,
    map_shape: tuple[int, int, int],
    _prepared: None,
    local: LocalTraining,
    rng: Generator,
) -> Iterator[Draw]:
    """Draw images, positions, another image of the batch for each, and the channels to keep."""
    height, width, dim = map_shape
    settings: SmoosegSettings = local.settings
    for images in query_batches(num_images, local.batch_size, rng):
        shape = (len(images), settings.positions)
        positions = torch.randint(height * width, shape, generator=rng)
        partners = derangement(len(images), rng)
        tensors = {
            "partners": partners,
            # A client with few images may draw one of them twice.
            "counted": images[partners] != images,
            "kept": draw_kept(len(images), dim, settings.dropout, rng),
        }
        yield Draw(images, positions, tensors)


def closeness(
    directions: Float[Tensor, "images positions dim"],
    others: Float[Tensor, "images others dim"],
) -> Float[Tensor, "images positions others"]:
    """Compute how close positions are: the cosine of their features, less its mean over the others.

    >>> features = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> closeness(features, features)
    tensor([[[ 0.5000, -0.5000],
             [-0.5000,  0.5000]]])

    Args:
        directions: Features of unit length.
        others: Features of unit length, of the same or another image.
    """
    cosines = directions @ others.mT
    return cosines - cosines.mean(dim=2, keepdim=True)


def smoothness_loss(
    close: Float[Tensor, "images positions others"],
    shift: float,
    agreement: Float[Tensor, "images positions others"],
    counted: Bool[Tensor, " images"] | None = None,
) -> Float[Tensor, ""]:
    """Make close positions agree and others differ (SmooSeg, smoothness loss).

    >>> close, agreement = torch.tensor([[[0.5, -0.5]]]), torch.tensor([[[0.75, 0.0]]])
    >>> smoothness_loss(close, 0.0, agreement)
    tensor(-0.1875)

    Args:
        close: Closeness of the features, without gradient.
        shift: Closeness below which positions should differ (b).
        agreement: Cosine of the assignments of the same positions.
        counted: Pairs of images in the mean; None: all.

    Returns:
        Mean over all pairs of positions of (closeness - b) (1 - agreement).
    """
    weights = close - shift
    if counted is not None:
        weights = weights * share_weights(counted, weights.dtype)[:, None, None]
    return (weights * (1 - agreement)).mean()


def label_loss(
    units: Float[Tensor, "positions code"],
    centroids: Float[Tensor, "clusters code"],
    labels: Int[Tensor, " positions"],
) -> Float[Tensor, ""]:
    """Pull the centroids to the codes that the teacher assigns to them (SmooSeg, data loss).

    Args:
        units: Codes of unit length, detached: this loss moves only the centroids.
        centroids: Centroids in training, compared by cosine.
        labels: The teacher's cluster of each code.

    Returns:
        Mean cross-entropy of the softmax over the cosines.
    """
    return cross_entropy(units @ normalize(centroids, dim=1).T, labels)


def step_losses(
    weights: HeadWeights,
    centroids: Float[Tensor, "clusters code"],
    step: Step,
    _agreed: Numbers,
    settings: SmoosegSettings,
    precision: torch.dtype,
) -> Losses:
    """Compute the smoothness loss of the head, and the label loss of the centroids.

    Args:
        weights: Head in training.
        centroids: Centroids in training.
        step: Features of the images; `partners`: another image for each, `counted`: whether it is
            another; `kept`: the channels of each image that are not dropped; carried: the teacher.
        settings: Shifts, temperature and dropout.
        precision: Precision of the matrix products.
    """
    drawn, dtype = step.drawn, step.features.dtype
    dropped = drop_channels(step.features, drawn["kept"], settings.dropout).to(precision)
    codes = project(narrow(weights, precision), dropped).to(dtype)
    units = normalize(codes, dim=2)
    teacher = normalize(step.carried[TEACHER], dim=1)
    cosines = (units.to(precision) @ teacher.to(precision).T).to(dtype)
    assigned = normalize((cosines / settings.temperature).softmax(dim=2), dim=2).to(precision)
    directions, partners = normalize(step.features, dim=2).to(precision), drawn["partners"]
    within, across = (
        smoothness_loss(
            closeness(directions, directions[order]).to(dtype),
            shift,
            (assigned @ assigned[order].mT).to(dtype),
            counted,
        )
        for order, shift, counted in (
            (slice(None), settings.within_shift, None),
            (partners, settings.across_shift, drawn["counted"]),
        )
    )
    labels = cosines.detach().argmax(dim=2).flatten()
    centroid_loss = label_loss(units.detach().flatten(0, 1), centroids, labels)
    return Losses(within + across, centroid_loss, dropped, codes)


def step_memory(feature_dim: int, local: LocalTraining) -> int:
    """Estimate the bytes of a client's step: features, pairs, weights and Adam's state."""
    settings: SmoosegSettings = local.settings
    features = 6 * local.batch_size * settings.positions * feature_dim
    pairs = 16 * local.batch_size * settings.positions**2
    weights = 6 * feature_dim * (feature_dim + 2 * feature_dim)
    return 4 * (features + pairs + weights)


OBJECTIVE = Objective(
    settings=SmoosegSettings,
    draw=draw_steps,
    loss=step_losses,
    memory=step_memory,
    carry=FOLLOWING,
)
