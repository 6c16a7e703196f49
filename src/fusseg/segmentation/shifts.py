"""Shifts without labels: quantiles of the centered feature correspondence (method section 3)."""

from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config import LocalConfig
from fusseg.features.feature_set import FeatureSet
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.losses import center_correspondence
from fusseg.segmentation.pairing import pair_up
from fusseg.segmentation.sampling import draw_batch, query_batches

Shift = tuple[float, float, float]
"""Shifts of the pairs with self, neighbor and random support."""
QUANTILES = (0.75, 0.80, 0.95)
"""Of the three kinds of pairs; a first guess that worked in a trial with 11 clusters."""


def balance_quantiles(local: LocalConfig, num_clusters: int) -> LocalConfig:
    """Put `balanced` quantiles in numbers.

    Of K regions of equal size, two random positions of an image share one with probability 1/K.
    Where more pairs than the others are pushed apart, regions have to break: the quantiles of pairs
    within an image, or with its neighbor, are at most 1 - 1/K. Random supports are there to be told
    apart, whatever K is.

    Args:
        local: Given quantiles are left as they are.
        num_clusters: Number of regions, K.
    """
    if local.shift_quantiles != "balanced":
        return local
    most = 1 - 1 / num_clusters
    quantiles = min(QUANTILES[0], most), min(QUANTILES[1], most), QUANTILES[2]
    return replace(local, shift_quantiles=quantiles)


def automatic_shift(
    features: FeatureSet,
    mean_feature: Float[Tensor, " dim"],
    local: LocalConfig,
    generator: Generator,
) -> Shift:
    """Estimate one client's shifts from sampled batches.

    Args:
        features: The client's images.
        mean_feature: Subtracted from every feature; zeros where nothing is centered.
        local: Quantile per kind of pair, in numbers, number of batches, and how they are drawn.
        generator: Random source.

    Raises:
        ValueError: If the quantiles are not given in numbers.
    """
    quantiles = local.shift_quantiles
    if quantiles == "balanced":
        raise ValueError("balanced quantiles depend on the number of clusters; balance them first")
    nearest = nearest_neighbors(torch.from_numpy(features.pooled) - mean_feature, local.neighbors)
    sampled: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    batches = query_batches(len(features), local.batch_size, generator)
    for queries in islice(batches, local.shift_batches):
        batch = draw_batch(features, nearest, queries, mean_feature, local, generator)
        pairings = pair_up(batch.features, batch.partners)
        sampled[0].append(center_correspondence(pairings.with_self))
        sampled[1].append(center_correspondence(pairings.with_neighbor))
        sampled[2].extend(center_correspondence(cosines) for cosines in pairings.with_random)
    shifts = [
        float(np.quantile(torch.stack(cosines).numpy(), quantile))
        for cosines, quantile in zip(sampled, quantiles, strict=True)
    ]
    return shifts[0], shifts[1], shifts[2]
