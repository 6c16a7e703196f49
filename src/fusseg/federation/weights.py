"""Weights of the clients, with a limit on the share of any single one."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

from fusseg.config.schema import FederationConfig, Weights
from fusseg.federation.state import ClientUpdate

DEPLOYED_SHARE = 0.5
"""Value of `federation.max_weight_share = "auto"` in a deployment, where sites report their own
number of images and fit: no site weighs more than all others together."""


FIT = "fit"
"""Name of the part that says how well a client's codes fit its centroids: their mean cosine."""
_SMALLEST_SPREAD = 0.001
_STEPS_OF_PRECISION = 100
"""Steps in which 1 / spread is counted, so that weights are integers."""


def client_weight(update: ClientUpdate, weights: Weights) -> int:
    """Weigh a client in averages.

    With `uncertainty`, the mean of n codes around a centroid varies by their spread over n, and
    averages are most certain with weights of one over the variance: n / (1 - mean cosine).

    Args:
        update: The client's update, with its fit if weights need it.
        weights: What clients are weighted by.
    """
    if weights == "equal":
        return 1
    if weights == "images":
        return update.num_images
    spread = max(1 - float(update.parts[FIT]), _SMALLEST_SPREAD)
    return update.num_images * round(_STEPS_OF_PRECISION / spread)


def weight_bound(federation: FederationConfig, *, deployed: bool, hidden: bool = False) -> float:
    """Return the largest share of the weight that a client may have; 1: no limit.

    Args:
        federation: The bound, or `auto`.
        deployed: Whether sites report their own counts.
        hidden: Whether the server learns only sums, in which no weight can be bounded.
    """
    if federation.max_weight_share == "auto":
        return DEPLOYED_SHARE if deployed and not hidden else 1.0
    return federation.max_weight_share


def bounded_counts(counts: Sequence[int], most: float) -> list[int]:
    """Lower the largest counts to a common limit, so that none exceeds a share of their sum.

    If there are too few clients for the share, all get the same count.

    >>> bounded_counts([100, 10, 10], most=0.5)
    [20, 10, 10]

    Args:
        counts: Number of images, or another weight, of each client, at least 1.
        most: Largest share of one client, in (0, 1].

    Returns:
        The counts in the given order: the largest integers within the share.
    """
    limit = _limit(counts, _exact(most))
    return [min(count, limit) for count in counts]


def num_bounded(most: float) -> int:
    """Return the largest possible number of clients that `bounded_counts` can limit."""
    return ceil(1 / _exact(most)) - 1


def _limit(counts: Sequence[int], most: Fraction) -> int:
    """Find the largest count of a client: the one at which the bounded clients reach the share.

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
    # 0.2 means 1/5 and not the nearest double, so five equal clients stay within it.
    return Fraction(most).limit_denominator(1_000_000)
