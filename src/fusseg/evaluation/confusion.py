"""Pixel counts: what all scores are computed from."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

_VALUES = 256
"""Values of a byte."""


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
    # All 256 values are counted and those of no class cut off: faster than picking pixels.
    pairs = clusters.flatten().int() * _VALUES + labels.flatten()
    counts = torch.bincount(pairs, minlength=num_clusters * _VALUES)
    return counts.reshape(num_clusters, _VALUES)[:, :num_classes].contiguous()
