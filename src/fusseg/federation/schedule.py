"""Which rounds there are and what the server asks for in each (method section 3b)."""

from fusseg.config import FederationConfig
from fusseg.federation.state import Task

LLOYD, PCA = "lloyd", "pca"
"""Strategies without a rule for centroids: Lloyd steps take its place."""


def num_training_rounds(federation: FederationConfig) -> int:
    """Rounds in which the clients train; none for `pca`."""
    return 0 if federation.strategy == PCA else federation.rounds


def num_rounds(federation: FederationConfig) -> int:
    """Rounds in all: those of training, then one per step of the Lloyd finish."""
    return num_training_rounds(federation) + federation.lloyd_rounds


def tasks(round_number: int, federation: FederationConfig) -> tuple[Task, ...]:
    """List what the clients are asked for in a round, one exchange after the other.

    Args:
        round_number: From 1.
        federation: With baselines resolved.
    """
    if round_number > num_training_rounds(federation):
        starts = federation.strategy == PCA and round_number == 1
        return ("moments", "lloyd") if starts else ("lloyd",)
    if federation.strategy == LLOYD:
        return ("train", "lloyd", "lloyd", "lloyd")
    return ("train",)


def num_exchanges(first: int, last: int, federation: FederationConfig) -> int:
    """Count the exchanges of the rounds from `first` to `last`, both included."""
    return sum(len(tasks(number, federation)) for number in range(first, last + 1))
