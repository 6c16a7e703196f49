"""Mean, spread and paired differences over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Spread:
    """Values of one cell over seeds."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single value."""
    count: int


@dataclass(frozen=True)
class Difference:
    """Mean difference of two rows over the seeds that both have."""

    mean: float
    error: float | None
    """Standard error of the mean: sample standard deviation over root n; None for one seed."""
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Sum up values over seeds; at least one."""
    std = stdev(values) if len(values) > 1 else None
    return Spread(fmean(values), std, len(values))


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> Difference | None:
    """Subtract a reference seed by seed.

    Args:
        values: Score by seed.
        reference: Score by seed of the row to compare with.

    Returns:
        None where no seed is in both.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    found = spread([values[seed] - reference[seed] for seed in seeds])
    error = None if found.std is None else found.std / math.sqrt(found.count)
    return Difference(found.mean, error, found.count)
