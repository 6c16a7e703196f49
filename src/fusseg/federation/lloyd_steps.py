"""Federated Lloyd: spherical k-means over the codes of all clients, from sums alone (section 3b).

The guarded steps of `move_to_codes` adapt a trained model to new images: they limit how far a
centroid can turn, so that regions keep their meaning.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.core.errors import ConfigError
from fusseg.federation.checks import counts_of_positions, sums_of_unit_codes
from fusseg.federation.parts import Part
from fusseg.federation.points import sample_positions, unit_codes
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.state import Client, GlobalState
from fusseg.segmentation.objective import Model

FINISH = "lloyd"
"""Name of the rounds after training in the record."""
MIN_POSITIONS = 100
"""Guarded steps do not move centroids with fewer sampled positions."""


@dataclass(frozen=True)
class CodeSums:
    """What a Lloyd step needs to know about a set of codes; clients' sums can be added up."""

    sums: Float[Tensor, "clusters code"]
    """Sum of the unit codes nearest to each centroid, float64."""
    counts: Int[Tensor, " clusters"]

    def mean_cosines(self, centroids: Float[Tensor, "clusters code"]) -> Float[Tensor, " clusters"]:
        """Compute the mean cosine of the codes to their centroid, 0 if there are none; float64."""
        return self._cosines(centroids) / self.counts.clamp(min=1)

    def mean_cosine(self, centroids: Float[Tensor, "clusters code"]) -> Float64[Tensor, ""]:
        """Compute the mean cosine of all codes to their centroids."""
        return (self._cosines(centroids).sum() / self.counts.sum()).clamp(-1, 1)

    def _cosines(self, centroids: Float[Tensor, "clusters code"]) -> Float[Tensor, " clusters"]:
        return (self.sums * normalize(centroids.double(), dim=1)).sum(dim=1)


def sum_codes(
    codes: Iterable[Float[Tensor, "_ code"]], centroids: Float[Tensor, "clusters code"]
) -> CodeSums:
    """Assign codes to their nearest centroid by cosine, and sum them (client's side of a step).

    >>> codes = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])]
    >>> found = sum_codes(codes, centroids=torch.tensor([[2.0, 1.0], [0.0, 1.0]]))
    >>> found.sums.tolist(), found.counts.tolist()
    ([[2.0, 0.0], [0.0, 1.0]], [2, 1])

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


def sum_client_codes(
    client: Client, model: Model, mean_feature: Float[Tensor, " dim"], protocol: Protocol
) -> CodeSums:
    """Sum the codes of a client's sampled positions by their nearest centroid."""
    positions = sample_positions(client.features, protocol.positions_per_image, protocol.seed)
    codes = unit_codes(model.head, client.features, positions, mean_feature)
    return sum_codes(codes, model.centroids)


def move_centroids(
    centroids: Float[Tensor, "clusters code"], total: CodeSums
) -> Float[Tensor, "clusters code"]:
    """Turn each centroid to the sum of its codes (server's side of a step).

    A cluster keeps its centroid if it is empty or its codes cancel out.

    Returns:
        Rows of unit length, in the dtype of the centroids.
    """
    lengths = total.sums.norm(dim=1, keepdim=True)
    kept = normalize(centroids.double(), dim=1)
    moved = torch.where(lengths > 0, total.sums / lengths.clamp(min=1e-300), kept)
    return moved.to(centroids.dtype)


def code_parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the parts of a Lloyd step: sums and counts of codes, which are summed."""
    centroids = state.model.centroids
    counts = counts_of_positions("counts", protocol.positions_per_image)
    return {
        # Checked before the sums, which are checked against the counts.
        "counts": Part((len(centroids),), torch.int64, "sum", counts),
        "sums": Part(
            tuple(centroids.shape), torch.float64, "sum", sums_of_unit_codes("sums", "counts")
        ),
    }


def sampled_codes(work: Work) -> Iterable[Float[Tensor, "_ code"]]:
    """Return the codes of the client's sampled positions, in chunks, cached or new."""
    client, mean_feature = work.client, work.state.plan.mean_feature
    return work.kept.of_client(
        client.client_id, client.features, work.model.head, mean_feature, work.start
    )


def measure_codes(work: Work) -> dict[str, Tensor]:
    """Sum the codes nearest to each centroid: the client's side of a step."""
    found = sum_codes(sampled_codes(work), work.model.centroids)
    return {"sums": found.sums, "counts": found.counts}


def merge_codes(gathered: Gathered) -> Model:
    """Move the centroids to the clients' sums: the server's side of a step."""
    model, totals = gathered.state.model, gathered.totals
    found = CodeSums(totals["sums"], totals["counts"])
    return Model(model.head, move_centroids(model.centroids, found))


LLOYD_STEP = Task(FINISH, code_parts, measure_codes, merge_codes)
"""One step of federated Lloyd."""


@dataclass(frozen=True)
class Adaptation:
    """Limits of the guarded steps."""

    steps: int = 10
    """Most Lloyd steps; fewer if no centroid moves any more; 0: centroids are not moved."""
    min_cosine: float = 0.8
    """Smallest cosine between a centroid and its starting point; no centroid turns further."""

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
    """Result of the guarded steps."""

    steps: int
    states: tuple[str, ...]
    """State of each centroid, as in `RegionMove` of the record."""


def move_to_codes(
    centroids: Float[Tensor, "clusters code"],
    clients: Sequence[Sequence[Float[Tensor, "_ code"]]],
    adaptation: Adaptation,
) -> tuple[Float[Tensor, "clusters code"], Moves]:
    """Take guarded Lloyd steps; they use only sums of the clients' codes.

    Args:
        centroids: Centroids to start from, rows of any length.
        clients: Codes of unit length of each client, in chunks.
        adaptation: Number of steps, and how far centroids may turn.

    Returns:
        Centroids of unit length, and what happened to each.
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
    """Limit how far unit centroids turn; their direction of turning is kept.

    Returns:
        Centroids of unit length, and for each 1 if it was limited, else 0.
    """
    cosine = (old * new).sum(dim=1, keepdim=True)
    across = normalize(new - cosine * old, dim=1)
    bound = min_cosine * old + (1 - min_cosine**2) ** 0.5 * across
    far = cosine < min_cosine
    return torch.where(far, normalize(bound, dim=1), new), far.flatten().long()
