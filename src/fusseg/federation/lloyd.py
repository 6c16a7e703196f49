"""Federated Lloyd: spherical k-means over the codes of all clients by sums alone (section 3b)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class CodeSums:
    """What one Lloyd step needs to know about a set of codes; those of clients add up."""

    sums: Float[Tensor, "clusters code"]
    """Sum of the unit codes nearest to each centroid, float64."""
    counts: Int[Tensor, " clusters"]

    def mean_cosines(self, centroids: Float[Tensor, "clusters code"]) -> Float[Tensor, " clusters"]:
        """Mean cosine of the codes to their centroid, 0 for an empty cluster; float64."""
        directions = normalize(centroids.double(), dim=1)
        return (self.sums * directions).sum(dim=1) / self.counts.clamp(min=1)


def sum_codes(
    codes: Iterable[Float[Tensor, "_ code"]], centroids: Float[Tensor, "clusters code"]
) -> CodeSums:
    """Give every code to its nearest centroid by cosine, and sum (the client's half of a step).

    Args:
        codes: Codes of unit length, in chunks.
        centroids: Rows of any length.
    """
    directions = normalize(centroids, dim=1)
    sums = torch.zeros(centroids.shape, dtype=torch.float64)
    counts = torch.zeros(len(centroids), dtype=torch.int64)
    for chunk in codes:
        nearest = (chunk @ directions.T).argmax(dim=1)
        sums.index_add_(0, nearest, chunk.double())
        counts += torch.bincount(nearest, minlength=len(centroids))
    return CodeSums(sums, counts)


def move_centroids(
    centroids: Float[Tensor, "clusters code"], total: CodeSums
) -> Float[Tensor, "clusters code"]:
    """Turn each centroid to the sum of its codes (the server's half of a step).

    An empty cluster, or one whose codes cancel out, keeps its centroid.

    Returns:
        Rows of unit length, in the dtype of the centroids.
    """
    lengths = total.sums.norm(dim=1, keepdim=True)
    kept = normalize(centroids.double(), dim=1)
    moved = torch.where(lengths > 0, total.sums / lengths.clamp(min=1e-300), kept)
    return moved.to(centroids.dtype)
