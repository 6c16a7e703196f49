"""How many of its images a client counts with, where no client may have more than a share."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

from fusseg.config.schema import FederationConfig

DEPLOYED_SHARE = 0.5
"""What `federation.max_weight_share = "auto"` stands for where sites count their images themselves:
one of them weighs at most as much as all others together."""


def weight_bound(federation: FederationConfig, *, deployed: bool) -> float:
    """Say which share of the weight a client may have; 1: any.

    Args:
        federation: The bound, or `auto`.
        deployed: Whether the counts are what sites say of themselves.
    """
    if federation.max_weight_share == "auto":
        return DEPLOYED_SHARE if deployed else 1.0
    return federation.max_weight_share


def bounded_counts(counts: Sequence[int], most: float) -> list[int]:
    """Lower the largest counts to one limit, so that none is more than a share of their sum.

    Where there are too few clients for the share, all count alike.

    Args:
        counts: Images of each client, at least 1.
        most: Largest share of one client, in (0, 1].

    Returns:
        The counts, in the order given: whole numbers, the largest that keep to the share.
    """
    limit = _limit(counts, _exact(most))
    return [min(count, limit) for count in counts]


def num_bounded(most: float) -> int:
    """Count the clients at most whose images `bounded_counts` does not count in full."""
    return ceil(1 / _exact(most)) - 1


def _limit(counts: Sequence[int], most: Fraction) -> int:
    """Images with which a client counts at most: raise it until the bounded ones reach the share.

    With k bounded clients and R images of the others, x / (k x + R) = most.
    """
    ordered, rest = sorted(counts, reverse=True), sum(counts)
    if ordered[0] <= most * rest:
        return ordered[0]
    for place, count in enumerate(ordered[:-1], 1):
        rest -= count
        left = 1 - place * most
        if left <= 0:
            break
        limit = floor(most * rest / left)
        if limit >= ordered[place]:
            return limit
    return ordered[-1]


def _exact(most: float) -> Fraction:
    # 0.2 is meant, and not the double beside it: five equal clients keep to it.
    return Fraction(most).limit_denominator(1_000_000)
