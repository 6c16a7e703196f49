"""Merge clusters to regions by average linkage, from sums alone (ours, section 3b).

More clusters than regions are trained, and the server merges those that are alike. It needs the
centroids, the number of positions of each cluster and, if borders count, how often two clusters
meet: no position of a client.

Average linkage (Sokal & Michener, 1958) joins the two groups with the largest mean cosine between
a position of one and a position of the other, until there are as few groups as wanted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.core.errors import FederationError

BORDER_WEIGHT = 0.5
"""How much a border that two groups share entirely counts, in cosine."""
CLOSE = 0.05
"""Cosine distance below which two distances are about the same; for the suggested number."""


@dataclass(frozen=True)
class Merge:
    """One step of the linkage: two groups that become one, each named by its lowest cluster."""

    kept: int
    """The lower of the two; it names the new group."""
    joined: int
    distance: float
    """1 - the mean cosine of their positions, minus what their common border counts."""


def merge_clusters(
    centroids: Float[Tensor, "clusters code"],
    counts: Int[Tensor, " clusters"],
    num_regions: int,
    borders: Int[Tensor, "clusters clusters"] | None = None,
    *,
    border_weight: float = BORDER_WEIGHT,
    sums: Float[Tensor, "clusters code"] | None = None,
) -> Int[Tensor, " clusters"]:
    """Merge clusters to regions by average linkage over their positions (server's side).

    The result does not depend on the order of the clusters, except for the numbers of the regions
    and where two pairs are equally near: then the one with the lowest clusters is merged.

    >>> centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    >>> merge_clusters(centroids, torch.tensor([5, 5, 5]), 2).tolist()
    [0, 1, 0]

    Args:
        centroids: Rows of any length, compared by cosine.
        counts: Number of positions of each cluster: its weight.
        num_regions: Number of regions, at least 2.
        borders: `border_counts`, summed over the clients; None: borders do not count.
        border_weight: How much borders count, at least 0. To the mean cosine of two groups it adds
            this number times the share of their borders that they have in common.
        sums: Sum of the unit codes of each cluster; the mean cosine is then that of all pairs of
            codes. None: every position counts as its centroid.

    Returns:
        Region of each cluster, numbered in the order of their lowest clusters with positions. A
        cluster without positions joins the region with the largest mean cosine. There are fewer
        regions if fewer clusters have positions.

    Raises:
        FederationError: If fewer than 2 clusters have positions.
    """
    linkage = _start(centroids, counts, sums, borders, border_weight)
    group = torch.arange(len(counts))
    for step in linkage.merges(num_regions):
        group[group == step.joined] = step.kept
    filled = counts > 0
    if not bool(filled.all()):
        group[~filled] = _nearest_groups(centroids, counts, sums, group)
    regions: Tensor = torch.unique(group, return_inverse=True)[1]
    return regions


def suggest_num_regions(
    centroids: Float[Tensor, "clusters code"],
    counts: Int[Tensor, " clusters"],
    *,
    sums: Float[Tensor, "clusters code"] | None = None,
    least: int = 2,
    most: int | None = None,
) -> int:
    """Suggest a number of regions: where the distance of the next merge rises most (ours).

    Let d(K) be the distance of the two groups that are merged when there are K. The suggested K has
    the largest ratio (d(K) + c) / (d(K + 1) + c): the last merge joined what is near, the next one
    would join what is far apart. With c = `CLOSE`, ratios of very small distances do not count. Of
    equal ratios, the largest K is taken. At least two clusters are merged.

    >>> centroids = torch.tensor([[1.0, 0.0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]])
    >>> suggest_num_regions(centroids, torch.tensor([1, 1, 1, 1, 1]))
    3

    Args:
        centroids: As in `merge_clusters`.
        counts: As in `merge_clusters`.
        sums: As in `merge_clusters`.
        least: Smallest number to suggest, at least 2.
        most: Largest number to suggest; None: one less than the clusters with positions.

    Raises:
        FederationError: If fewer than 2 clusters have positions.
    """
    distances = [step.distance for step in _start(centroids, counts, sums).merges(1)]
    filled = len(distances) + 1
    # By number of groups before the merge.
    needed = {filled - place: distance for place, distance in enumerate(distances)}
    highest = min(filled - 1, filled if most is None else most)
    candidates = range(highest, min(least, highest) - 1, -1)
    ratios = {
        number: (needed[number] + CLOSE) / (needed[number + 1] + CLOSE)
        for number in candidates
        if number >= 2
    }
    return max(ratios, key=lambda number: ratios[number]) if ratios else filled


def border_counts(
    labels: Shaped[Tensor, "images height width"], num_clusters: int
) -> Int[Tensor, "{num_clusters} {num_clusters}"]:
    """Count how often two clusters meet, side by side or one above the other.

    The counts of several clients can be added up (client's side).

    >>> border_counts(torch.tensor([[[0, 0, 1], [0, 2, 1]]]), num_clusters=3).tolist()
    [[0, 1, 2], [1, 0, 1], [2, 1, 0]]

    Args:
        labels: Cluster of each position of whole feature maps.
        num_clusters: Number of clusters.

    Returns:
        For each pair of clusters, the number of neighbors in one and the other; symmetric, with a
        diagonal of zeros.
    """
    counts = torch.zeros(num_clusters**2, dtype=torch.int64)
    for first, second in (
        (labels[:, :, :-1], labels[:, :, 1:]),
        (labels[:, :-1], labels[:, 1:]),
    ):
        pairs = first.long().flatten() * num_clusters + second.long().flatten()
        counts += torch.bincount(pairs, minlength=num_clusters**2)
    square = counts.reshape(num_clusters, num_clusters).fill_diagonal_(0)
    return square + square.T


@dataclass
class _Linkage:
    """The groups that are left, and sums over them; changed by every merge."""

    cosines: Float[Tensor, "clusters clusters"]
    """Mean cosine of the positions of two groups, float64."""
    counts: Float[Tensor, " clusters"]
    borders: Float[Tensor, "clusters clusters"] | None
    border_weight: float
    alive: list[int]
    """Lowest cluster of each group, ascending."""

    def merges(self, num_groups: int) -> Iterator[Merge]:
        """Merge the nearest groups until there are at most `num_groups`."""
        while len(self.alive) > num_groups:
            groups = torch.tensor(self.alive)
            likeness = self._likeness(groups)
            # Each pair once, the lower group first: of equal pairs, argmax finds the lowest.
            upper = torch.ones_like(likeness, dtype=torch.bool).triu(1)
            best = int(likeness.masked_fill(~upper, -torch.inf).argmax())
            row, column = divmod(best, len(groups))
            step = Merge(self.alive[row], self.alive[column], 1 - float(likeness[row, column]))
            self._join(step)
            yield step

    def _likeness(self, groups: Int[Tensor, " groups"]) -> Float[Tensor, "groups groups"]:
        cosines = self.cosines[groups][:, groups]
        if self.borders is None:
            return cosines
        shared = self.borders[groups][:, groups]
        total = shared.sum(dim=1)
        either = total[:, None] + total - shared
        return cosines + self.border_weight * shared / either.clamp(min=1)

    def _join(self, step: Merge) -> None:
        kept, joined = step.kept, step.joined
        weights = self.counts[[kept, joined]]
        mean = (weights[:, None] * self.cosines[[kept, joined]]).sum(dim=0) / weights.sum()
        self.cosines[kept], self.cosines[:, kept] = mean, mean
        self.counts[kept] += self.counts[joined]
        if self.borders is not None:
            self.borders[kept] += self.borders[joined]
            self.borders[:, kept] += self.borders[:, joined]
            self.borders[kept, kept] = 0
        self.alive.remove(joined)


def _start(
    centroids: Float[Tensor, "clusters code"],
    counts: Int[Tensor, " clusters"],
    sums: Float[Tensor, "clusters code"] | None,
    borders: Int[Tensor, "clusters clusters"] | None = None,
    border_weight: float = 0.0,
) -> _Linkage:
    """Make a group of each cluster that has positions."""
    alive = (counts > 0).nonzero().flatten().tolist()
    if len(alive) < 2:
        raise FederationError(
            f"only {len(alive)} of {len(counts)} clusters have positions, but 2 regions need 2; "
            "train longer, or lower local.centroid_learning_rate"
        )
    means = _means(centroids, counts, sums)
    return _Linkage(
        cosines=means @ means.T,
        counts=counts.double(),
        borders=None if borders is None else borders.double(),
        border_weight=border_weight,
        alive=alive,
    )


def _means(
    centroids: Float[Tensor, "clusters code"],
    counts: Int[Tensor, " clusters"],
    sums: Float[Tensor, "clusters code"] | None,
) -> Float[Tensor, "clusters code"]:
    """Mean unit code of each cluster, float64: the product of two is the mean cosine of pairs."""
    if sums is None:
        return normalize(centroids.double(), dim=1)
    return sums.double() / counts.clamp(min=1)[:, None]


def _nearest_groups(
    centroids: Float[Tensor, "clusters code"],
    counts: Int[Tensor, " clusters"],
    sums: Float[Tensor, "clusters code"] | None,
    group: Int[Tensor, " clusters"],
) -> Int[Tensor, " empty"]:
    """Find the group of largest mean cosine for the centroid of each empty cluster."""
    filled = counts > 0
    names, place = torch.unique(group[filled], return_inverse=True)
    weighted = (_means(centroids, counts, sums) * counts[:, None])[filled]
    totals = torch.zeros(len(names), centroids.shape[1], dtype=torch.float64)
    totals.index_add_(0, place, weighted)
    sizes = torch.zeros(len(names), dtype=torch.float64)
    sizes.index_add_(0, place, counts[filled].double())
    empty = normalize(centroids[~filled].double(), dim=1)
    nearest: Tensor = names[(empty @ (totals / sizes[:, None]).T).argmax(dim=1)]
    return nearest
