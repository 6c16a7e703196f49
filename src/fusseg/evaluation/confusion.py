"""Pixel counts: what all scores are computed from."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor


def count_pixels(
    clusters: UInt8[Tensor, "*pixels"],
    labels: UInt8[Tensor, "*pixels"],
    num_clusters: int,
    num_classes: int,
) -> Int[Tensor, "{num_clusters} {num_classes}"]:
    """Count how often each cluster falls on each class; counts of images add up.

    Args:
        clusters: Region of each pixel.
        labels: Class of each pixel; a value of `num_classes` or above is ignored.
        num_clusters: Rows of the result.
        num_classes: Columns of the result.
    """
    # As bytes, 256 classes would wrap around to none.
    counted = labels.short() < num_classes
    pairs = clusters[counted].long() * num_classes + labels[counted].long()
    counts = torch.bincount(pairs, minlength=num_clusters * num_classes)
    return counts.reshape(num_clusters, num_classes)
