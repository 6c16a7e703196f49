"""Which number of regions the features themselves suggest, from clusterings of several numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

STABLE = 0.8
"""Adjusted Rand index from which two clusterings count as the same (Steinley 2004: "good")."""


@dataclass(frozen=True)
class Judged:
    """How well the features fall into one number of regions."""

    num_clusters: int
    stability: float
    """Mean adjusted Rand index on images that neither of two clusterings has seen."""
    spread: float
    """Sample standard deviation of that over the splits."""
    silhouette: float
    """Mean silhouette by cosine of held-back positions, in [-1, 1]."""
    mean_cosine: float
    """Of held-back positions to their own centroid; it rises with K, look for the elbow."""


@dataclass(frozen=True)
class Suggestion:
    """The numbers of regions worth trying."""

    finest: int
    """The largest stable one: regions can share a name later, but none can be split."""
    steadiest: int
    """The one of the highest stability."""
    most_distinct: int
    """The one of the highest silhouette."""
    stable: bool
    """Whether any number is stable; where none is, the finest is the steadiest."""


def suggest_number(judged: Sequence[Judged]) -> Suggestion:
    """Pick from what was judged; of equals the smaller number.

    Raises:
        ValueError: If nothing was judged.
    """
    if not judged:
        raise ValueError("a suggestion needs at least 1 number of regions, got 0")
    ordered = sorted(judged, key=lambda one: one.num_clusters)
    steadiest = max(ordered, key=lambda one: one.stability).num_clusters
    stable = [one.num_clusters for one in ordered if one.stability >= STABLE]
    return Suggestion(
        finest=stable[-1] if stable else steadiest,
        steadiest=steadiest,
        most_distinct=max(ordered, key=lambda one: one.silhouette).num_clusters,
        stable=bool(stable),
    )
