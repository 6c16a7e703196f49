"""Federated Lloyd: spherical k-means over the codes of all clients by sums alone (section 3b)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.core.errors import ConfigError
from fusseg.federation.checks import counts_of_positions, sums_of_unit_codes
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.state import GlobalState
from fusseg.segmentation.objective import Model

FINISH = "lloyd"
"""What the record calls the rounds after training."""
MIN_POSITIONS = 100
"""A centroid that stands for fewer of the sampled positions stays: so few do not tell where to."""


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


def code_parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the sums of codes, which add up."""
    centroids = state.model.centroids
    counts = counts_of_positions("counts", protocol.positions_per_image)
    return {
        # Before the sums, which are measured by them.
        "counts": Part((len(centroids),), torch.int64, "sum", counts),
        "sums": Part(
            tuple(centroids.shape), torch.float64, "sum", sums_of_unit_codes("sums", "counts")
        ),
    }


def measure_codes(work: Work) -> dict[str, Tensor]:
    """Sum the codes nearest to each centroid: the client's half of a step."""
    client, mean_feature = work.client, work.state.plan.mean_feature
    codes = work.kept.of_client(client.client_id, client.features, work.model.head, mean_feature)
    found = sum_codes(codes, work.model.centroids)
    return {"sums": found.sums, "counts": found.counts}


def merge_codes(gathered: Gathered) -> Model:
    """Move the centroids by the clients' sums: the server's half of a step."""
    model, totals = gathered.state.model, gathered.totals
    found = CodeSums(totals["sums"], totals["counts"])
    return Model(model.head, move_centroids(model.centroids, found))


LLOYD_STEP = Task(FINISH, code_parts, measure_codes, merge_codes)
"""One step of federated Lloyd."""


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
    """Of each centroid, as in `MovedRegion`."""


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
