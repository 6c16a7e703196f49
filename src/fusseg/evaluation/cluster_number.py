"""Suggest the number of regions from clusterings with several numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

STABLE = 0.8
"""Adjusted Rand index above which two clusterings count as the same (Steinley 2004: "good")."""


@dataclass(frozen=True)
class Judged:
    """How well the features fall into one number of regions."""

    num_clusters: int
    stability: float
    """Mean adjusted Rand index of two clusterings, on images that neither has seen."""
    spread: float
    """Sample standard deviation of the index over the splits."""
    silhouette: float
    """Mean cosine silhouette of held-back positions, in [-1, 1]."""
    mean_cosine: float
    """Mean cosine of held-back positions to their own centroid. It rises with K: look for the
    elbow."""


@dataclass(frozen=True)
class Suggestion:
    """The numbers of regions worth trying."""

    finest: int
    """The largest stable number: regions can share a name later, but none can be split. If no
    number is stable, the steadiest."""
    steadiest: int
    """The number with the highest stability."""
    most_distinct: int
    """The number with the highest silhouette."""
    stable: bool
    """Whether any number is stable."""


def suggest_number(judged: Sequence[Judged]) -> Suggestion:
    """Choose among the judged numbers of regions; of equal ones, the smaller.

    >>> few = Judged(4, stability=0.95, spread=0.01, silhouette=0.30, mean_cosine=0.6)
    >>> many = Judged(9, stability=0.85, spread=0.02, silhouette=0.35, mean_cosine=0.7)
    >>> suggest_number([few, many])
    Suggestion(finest=9, steadiest=4, most_distinct=9, stable=True)

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
