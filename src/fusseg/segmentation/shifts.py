"""Shifts without labels: quantiles of the centered feature correspondence (method section 3)."""

from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.config import LocalConfig
from fusseg.features.feature_set import FeatureSet
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.losses import center_correspondence
from fusseg.segmentation.sampling import draw_batch, pair_up, query_batches

Shift = tuple[float, float, float]
"""Shifts of the pairs with self, neighbor and random support."""


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
        local: Quantile per kind of pair, number of batches, and how they are drawn.
        generator: Random source.
    """
    nearest = nearest_neighbors(torch.from_numpy(features.pooled) - mean_feature, local.neighbors)
    sampled: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    batches = query_batches(len(features), local.batch_size, generator)
    for queries in islice(batches, local.shift_batches):
        batch = draw_batch(features, nearest, queries, mean_feature, local, generator)
        pairings = pair_up(batch.queries, batch.neighbors, batch.partners)
        sampled[0].append(center_correspondence(pairings.with_self))
        sampled[1].append(center_correspondence(pairings.with_neighbor))
        sampled[2].extend(center_correspondence(cosines) for cosines in pairings.with_random)
    shifts = [
        float(np.quantile(torch.stack(cosines).numpy(), quantile))
        for cosines, quantile in zip(sampled, local.shift_quantiles, strict=True)
    ]
    return shifts[0], shifts[1], shifts[2]
