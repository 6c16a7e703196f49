"""STEGO's objective (FUSS paper, Eq. 5 to 7; arXiv 2203.08414): codes agree where features agree.

In this order: settings, label-free estimates of the shifts, the draw of a step, its losses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.config.ranges import at_least
from fusseg.core.errors import ConfigError
from fusseg.features.feature_set import FeatureSet
from fusseg.features.neighbors import cached_neighbors, nearest_neighbors
from fusseg.segmentation.head import HeadWeights, narrow, project
from fusseg.segmentation.losses import (
    center_correspondence,
    clustering_loss,
    correspondence_loss,
    pair_up,
    share_weights,
)
from fusseg.segmentation.objective import (
    Draw,
    LocalTraining,
    Losses,
    Model,
    Numbers,
    Objective,
    Step,
)
from fusseg.segmentation.sampling import (
    Batch,
    draw_batch,
    draw_kept,
    draw_places,
    drop_channels,
    query_batches,
)

SHIFTS = ("shift_self", "shift_neighbor", "shift_random")
"""The agreed numbers: shifts for the pairs with self, neighbor and random support."""
QUANTILES = (0.75, 0.80, 0.95)
"""Quantiles for the three kinds of pairs; a first guess that worked with 11 clusters."""


@dataclass(frozen=True, kw_only=True)
class StegoSettings:
    """The table `[local.stego]`."""

    positions: int = 121
    """Random positions per image and step."""
    neighbors: int = 2
    """Nearest images from which a query's neighbor is drawn."""
    random_supports: int = 5
    """Random support images per query, besides its neighbor."""
    dropout: float = 0.1
    """Share of feature channels dropped per image, in [0, 1)."""
    self_weight: float = 0.67
    """Weight of the correspondence of an image with itself."""
    neighbor_weight: float = 0.25
    """Weight of the correspondence with the nearest neighbor."""
    random_weight: float = 0.63
    """Weight of the mean correspondence with the random supports."""
    shift: Literal["auto"] | tuple[float, float, float] = "auto"
    """Cosines below which a pair is pushed apart (b): self, neighbor, random; or `auto`."""
    shift_quantiles: Literal["balanced"] | tuple[float, float, float] = "balanced"
    """Quantiles of the centered feature correspondence that `auto` takes, in (0, 1); `balanced`:
    0.75, 0.80 and 0.95, the first two at most 1 - 1/K."""
    shift_from_start: bool = False
    """Whether `balanced` quantiles are replaced by those of the computed start: the share of pairs
    that its regions tell apart. Without a computed start they stay."""
    shift_batches: int = 8
    """Batches sampled for `auto`."""
    separation_weight: float = 0.0
    """Weight of the penalty on similar centroids (lambda in Eq. 5)."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a count, weight or quantile is out of range.
        """
        for name in ("positions", "neighbors", "random_supports", "shift_batches"):
            at_least(f"local.stego.{name}", getattr(self, name), 1, 10_000)
        for name in ("self", "neighbor", "random", "separation"):
            at_least(f"local.stego.{name}_weight", getattr(self, f"{name}_weight"), 0)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"local.stego.dropout must lie in [0, 1), got {self.dropout}")
        if self.shift_quantiles != "balanced" and not all(
            0 < quantile < 1 for quantile in self.shift_quantiles
        ):
            raise ConfigError(
                f"local.stego.shift_quantiles must lie in (0, 1), got {self.shift_quantiles}"
            )


def balance_quantiles(settings: StegoSettings, num_clusters: int) -> StegoSettings:
    """Replace `balanced` quantiles by numbers.

    With K regions of equal size, two random positions of an image share a region with probability
    1/K. Pushing apart more than the remaining pairs would split regions, so the quantiles for pairs
    within an image, or with its neighbor, are at most 1 - 1/K. Random supports should be told
    apart for any K.

    Args:
        settings: Quantiles given as numbers are kept.
        num_clusters: Number of regions, K.
    """
    if settings.shift_quantiles != "balanced":
        return replace(settings, shift_from_start=False)
    most = 1 - 1 / num_clusters
    quantiles = min(QUANTILES[0], most), min(QUANTILES[1], most), QUANTILES[2]
    return replace(settings, shift_quantiles=quantiles)


def given_shifts(settings: StegoSettings) -> Numbers:
    """Return the shifts given in the configuration; none if they are estimated."""
    return {} if settings.shift == "auto" else dict(zip(SHIFTS, settings.shift, strict=True))


def estimated_shifts(settings: StegoSettings) -> dict[str, tuple[float, float]]:
    """Name the shifts that clients estimate; centered cosines lie in [-2, 2]."""
    return dict.fromkeys(SHIFTS, (-2.0, 2.0)) if settings.shift == "auto" else {}


def estimate_shifts(
    features: FeatureSet, mean_feature: Float[Tensor, " dim"], local: LocalTraining, rng: Generator
) -> Numbers:
    """Estimate one client's shifts: quantiles of the centered feature correspondence.

    An image paired with itself is not a random support. If the batches contain no other pair, which
    can happen with two or three images, further batches are drawn.

    Args:
        features: Features of the client's images.
        mean_feature: Subtracted from every feature; zeros if features are not centered.
        local: Numeric quantile of each kind of pair, number of batches, and how they are drawn.
        rng: Random source.

    Raises:
        ValueError: If the quantiles are not numeric.
    """
    settings: StegoSettings = local.settings
    quantiles = settings.shift_quantiles
    if quantiles == "balanced":
        raise ValueError("balanced quantiles depend on the number of clusters; balance them first")
    if settings.shift != "auto":
        return {}
    sampled: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for batch in _sample(features, mean_feature, local, rng):
        for kind, cosines in zip(sampled, _centered(batch), strict=True):
            kind.extend(cosines)
    return _quantiles(sampled, quantiles)


def estimate_shifts_at_start(
    features: FeatureSet,
    mean_feature: Float[Tensor, " dim"],
    start: Model,
    local: LocalTraining,
    rng: Generator,
) -> Numbers:
    """Estimate one client's shifts: as many pairs are pushed apart as the start tells apart.

    For each kind of pair the quantile is the share of sampled pairs whose positions lie in
    different regions of the start. A fixed quantile pushes apart positions of one region where
    regions are large, and pulls together those of different regions where they are small (ours).

    Args:
        features: Features of the client's images.
        mean_feature: Subtracted from every feature; zeros if features are not centered.
        start: Its head and centroids decide the region of each position.
        local: Number of batches, and how they are drawn.
        rng: Random source.
    """
    sampled: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    apart, pairs = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    directions = normalize(start.centroids, dim=1)
    for batch in _sample(features, mean_feature, local, rng):
        regions = (project(start.head, batch.features) @ directions.T).argmax(dim=2)
        for kind, cosines in enumerate(_centered(batch)):
            sampled[kind].extend(cosines)
            pairs[kind] += sum(map(torch.numel, cosines))
        for kind, others in enumerate(_region_pairs(regions, batch)):
            apart[kind] += sum(int((one != other).sum()) for one, other in others)
    return _quantiles(sampled, (apart / pairs).tolist())


def _region_pairs(
    regions: Int[Tensor, "both positions"], batch: Batch
) -> tuple[list[tuple[Tensor, Tensor]], ...]:
    """Pair the regions of positions as `_centered` pairs their features."""
    queries, neighbors = regions.chunk(2)
    rows, columns = queries[:, :, None], queries[:, None, :]
    return (
        [(rows, columns)],
        [(rows, neighbors[:, None, :])],
        [
            (rows[counted], columns[order][counted])
            for order, counted in zip(batch.partners, batch.counted, strict=True)
        ],
    )


def _sample(
    features: FeatureSet, mean_feature: Float[Tensor, " dim"], local: LocalTraining, rng: Generator
) -> Iterator[Batch]:
    """Draw `shift_batches` batches, and more until one has a pair of two images."""
    settings: StegoSettings = local.settings
    pooled = torch.from_numpy(features.pooled) - mean_feature
    nearest = nearest_neighbors(pooled, settings.neighbors)
    per_image, supports = settings.positions, settings.random_supports
    found = False
    for number, queries in enumerate(query_batches(len(features), local.batch_size, rng)):
        if number >= settings.shift_batches and found:
            return
        batch = draw_batch(features, nearest, queries, mean_feature, per_image, supports, rng)
        found = found or bool(batch.counted.any())
        yield batch


def _centered(batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Center the correspondences of each kind of pair; no image is its own random support."""
    pairings = pair_up(batch.features, batch.partners)
    random = [
        center_correspondence(cosines, counted)[counted]
        for cosines, counted in zip(pairings.with_random, batch.counted, strict=True)
    ]
    with_self = center_correspondence(pairings.with_self)
    return [with_self], [center_correspondence(pairings.with_neighbor)], random


def _quantiles(sampled: Sequence[Sequence[Tensor]], quantiles: Sequence[float]) -> Numbers:
    shifts = [
        float(np.quantile(torch.cat(list(cosines)).numpy(), quantile))
        for cosines, quantile in zip(sampled, quantiles, strict=True)
    ]
    return dict(zip(SHIFTS, shifts, strict=True))


def depend_on_start(settings: StegoSettings) -> bool:
    """Tell whether the shifts are those of the start's regions, if there is a start."""
    return settings.shift == "auto" and settings.shift_from_start


def find_neighbors(
    features: FeatureSet, mean_feature: Float[Tensor, " dim"], settings: StegoSettings, cache: Path
) -> Int[Tensor, "images neighbors"]:
    """Find the nearest images of each image, once per client."""
    return cached_neighbors(features, mean_feature, settings.neighbors, cache)


def draw_steps(
    num_images: int,
    map_shape: tuple[int, int, int],
    nearest: Int[Tensor, "images neighbors"],
    local: LocalTraining,
    rng: Generator,
) -> Iterator[Draw]:
    """Draw queries, neighbors, positions, random supports, and the channels to keep."""
    height, width, dim = map_shape
    settings: StegoSettings = local.settings
    for queries in query_batches(num_images, local.batch_size, rng):
        places = draw_places(
            nearest, queries, height * width, settings.positions, settings.random_supports, rng
        )
        kept = draw_kept(len(places.images), dim, settings.dropout, rng)
        tensors = {"partners": places.partners, "counted": places.counted, "kept": kept}
        yield Draw(places.images, places.positions, tensors)


def step_losses(
    weights: HeadWeights,
    centroids: Float[Tensor, "clusters code"],
    step: Step,
    agreed: Numbers,
    settings: StegoSettings,
    precision: torch.dtype,
) -> Losses:
    """Compute both losses of Eq. 7: the head's (Eq. 6 over three kinds of pairs), and Eq. 5.

    The paper passes whole maps through the head. Here only the sampled positions pass through it;
    the head works position by position, so the loss at these positions is the same.

    Args:
        weights: Head in training.
        centroids: Centroids in training.
        step: Features of the queries, then of their neighbors in the same order; `partners` and
            `counted` as in `Places`; `kept`: the channels of each image that are not dropped.
        agreed: The three shifts.
        settings: Weights of the terms, and dropout.
        precision: Precision of the matrix products.
    """
    partners, counted = step.drawn["partners"], step.drawn["counted"]
    shift_self, shift_neighbor, shift_random = (agreed[name] for name in SHIFTS)
    dropped = drop_channels(step.features, step.drawn["kept"], settings.dropout).to(precision)
    codes = project(narrow(weights, precision), dropped).to(step.features.dtype)
    features = pair_up(step.features, partners, precision)
    agreement = pair_up(codes, partners, precision)
    random_losses = [
        correspondence_loss(
            center_correspondence(cosines, counts), code_cosines, shift_random, share
        )
        for cosines, code_cosines, counts, share in zip(
            features.with_random,
            agreement.with_random,
            counted,
            share_weights(counted, precision),
            strict=True,
        )
    ]
    own, near = (
        correspondence_loss(center_correspondence(cosines), code_cosines, shift)
        for cosines, code_cosines, shift in (
            (features.with_self, agreement.with_self, shift_self),
            (features.with_neighbor, agreement.with_neighbor, shift_neighbor),
        )
    )
    head_loss = (
        settings.self_weight * own
        + settings.neighbor_weight * near
        + settings.random_weight * torch.stack(random_losses).mean()
    )
    flat = codes.flatten(0, 1).detach()
    centroid_loss = clustering_loss(flat, centroids, settings.separation_weight)
    return Losses(head_loss, centroid_loss, dropped, codes)


def step_memory(feature_dim: int, local: LocalTraining) -> int:
    """Estimate the bytes of a client's step: features, pairs, weights and Adam's state."""
    settings: StegoSettings = local.settings
    positions = 2 * local.batch_size * settings.positions
    features = 6 * positions * feature_dim
    pairs = 8 * (2 + settings.random_supports) * local.batch_size * settings.positions**2
    weights = 6 * feature_dim * (feature_dim + 2 * feature_dim)
    return 4 * (features + pairs + weights)


OBJECTIVE = Objective(
    settings=StegoSettings,
    settle=balance_quantiles,
    given=given_shifts,
    estimated=estimated_shifts,
    estimate=estimate_shifts,
    estimate_at_start=estimate_shifts_at_start,
    wants_start=depend_on_start,
    prepare=find_neighbors,
    draw=draw_steps,
    loss=step_losses,
    memory=step_memory,
)
