"""Lloyd steps that keep what the centroids stand for: none turns far from where it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.core.errors import ConfigError
from fusseg.federation.lloyd import CodeSums, move_centroids, sum_codes

MIN_POSITIONS = 100
"""A centroid that stands for fewer of the sampled positions stays: so few do not tell where to."""


@dataclass(frozen=True)
class Adaptation:
    """How far centroids may go."""

    steps: int = 10
    """Lloyd steps at most; fewer where no centroid moves any more; 0: the centroids stay."""
    min_cosine: float = 0.8
    """Of a centroid to where it was; a centroid that would turn further is held there."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if not 0 <= self.steps <= 1000:
            raise ConfigError(f"--steps must lie in 0 to 1000, got {self.steps}")
        if not 0 <= self.min_cosine <= 1:
            raise ConfigError(f"--min-cosine must lie in [0, 1], got {self.min_cosine}")


@dataclass(frozen=True)
class Moves:
    """What the steps did."""

    steps: int
    states: tuple[str, ...]
    """Of each centroid, as in `RegionMove` of the record."""


def move_to_codes(
    centroids: Float[Tensor, "clusters code"],
    clients: Sequence[Sequence[Float[Tensor, "_ code"]]],
    adaptation: Adaptation,
) -> tuple[Float[Tensor, "clusters code"], Moves]:
    """Take guarded Lloyd steps; sums of the clients' codes are all that is needed of them.

    Args:
        centroids: Where they start, rows of any length.
        clients: Codes of unit length of each client, in chunks.
        adaptation: How many steps, and how far.

    Returns:
        Rows of unit length, and what was done.
    """
    old = normalize(centroids, dim=1)
    current, states, steps = old, tuple("unmoved" for _ in old), 0
    while steps < adaptation.steps:
        steps += 1
        found = [sum_codes(codes, current) for codes in clients]
        total = CodeSums(
            torch.stack([one.sums for one in found]).sum(dim=0),
            torch.stack([one.counts for one in found]).sum(dim=0),
        )
        few = total.counts < MIN_POSITIONS
        wanted = torch.where(few[:, None], current, move_centroids(current, total))
        moved, far = limit_turn(old, wanted, adaptation.min_cosine)
        same = (moved == old).all(dim=1)
        states = tuple(
            "kept" if is_few else "held" if is_far else "unmoved" if is_same else "moved"
            for is_few, is_far, is_same in zip(
                few.tolist(), far.tolist(), same.tolist(), strict=True
            )
        )
        if torch.equal(moved, current):
            break
        current = moved
    return current, Moves(steps, states)


def limit_turn(
    old: Float[Tensor, "clusters code"], new: Float[Tensor, "clusters code"], min_cosine: float
) -> tuple[Float[Tensor, "clusters code"], Int[Tensor, " clusters"]]:
    """Hold unit centroids that turned too far at the largest turn allowed, in their direction.

    Returns:
        Rows of unit length, and 1 for each that is held, else 0.
    """
    cosine = (old * new).sum(dim=1, keepdim=True)
    across = normalize(new - cosine * old, dim=1)
    bound = min_cosine * old + (1 - min_cosine**2) ** 0.5 * across
    far = cosine < min_cosine
    return torch.where(far, normalize(bound, dim=1), new), far.flatten().long()
