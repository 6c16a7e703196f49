"""Agreement of two segmentations of the same positions, without labels."""

import torch
from jaxtyping import Int
from torch import Tensor


def count_pairs(
    left: Int[Tensor, "*positions"], right: Int[Tensor, "*positions"], num_left: int, num_right: int
) -> Int[Tensor, "{num_left} {num_right}"]:
    """Count the positions that each pair of regions of two segmentations shares.

    Counts of several images can be added up.

    >>> left, right = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 1])
    >>> count_pairs(left, right, num_left=2, num_right=2)
    tensor([[0, 2],
            [1, 1]])

    Args:
        left: Region of each position.
        right: Region of each position in the other segmentation.
        num_left: Number of regions in the first segmentation, the rows of the result.
        num_right: Number of regions in the other, the columns of the result.
    """
    pairs = left.flatten().long() * num_right + right.flatten().long()
    return torch.bincount(pairs, minlength=num_left * num_right).reshape(num_left, num_right)


def adjusted_rand(counts: Int[Tensor, "left right"]) -> float:
    """Compute the adjusted Rand index of two segmentations (Hubert and Arabie 1985).

    >>> adjusted_rand(torch.tensor([[0, 5], [3, 0]]))
    1.0
    >>> adjusted_rand(torch.tensor([[2, 2], [2, 2]])) < 0
    True

    Args:
        counts: Shared positions of each pair of regions, from `count_pairs`.

    Returns:
        1 if the segmentations are equal up to the numbering of regions, or if each is a single
        region; 0 on average if they are independent.

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
    """Count the pairs of positions that share a cell, in integers."""
    return float((counts.long() * (counts.long() - 1) // 2).sum())
