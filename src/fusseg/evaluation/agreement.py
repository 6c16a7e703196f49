"""How far two segmentations of the same positions agree, without labels."""

import torch
from jaxtyping import Int
from torch import Tensor


def count_pairs(
    left: Int[Tensor, "*positions"], right: Int[Tensor, "*positions"], num_left: int, num_right: int
) -> Int[Tensor, "{num_left} {num_right}"]:
    """Count how often each region of one segmentation meets each of another; counts add up.

    Args:
        left: Region of each position.
        right: Region of each position in the other segmentation.
        num_left: Rows of the result.
        num_right: Columns of the result.
    """
    pairs = left.flatten().long() * num_right + right.flatten().long()
    return torch.bincount(pairs, minlength=num_left * num_right).reshape(num_left, num_right)


def adjusted_rand(counts: Int[Tensor, "left right"]) -> float:
    """Adjusted Rand index of two segmentations (Hubert and Arabie 1985).

    Args:
        counts: How often each region of one meets each of the other, from `count_pairs`.

    Returns:
        1 where they are the same but for the numbers of the regions, 0 on average where they have
        nothing to do with each other; 1 too where each is a single region.

    Raises:
        ValueError: If fewer than 2 positions were counted.
    """
    total = int(counts.sum())
    if total < 2:
        raise ValueError(f"the adjusted Rand index needs at least 2 positions, got {total}")
    together = _pairs(counts)
    left, right = _pairs(counts.sum(dim=1)), _pairs(counts.sum(dim=0))
    expected = left * right / (total * (total - 1) / 2)
    largest = (left + right) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def _pairs(counts: Int[Tensor, "*cells"]) -> float:
    """Count the pairs of positions that share a cell, in whole numbers."""
    return float((counts.long() * (counts.long() - 1) // 2).sum())
