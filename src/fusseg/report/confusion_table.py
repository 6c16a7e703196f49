"""The confusion after matching, as the rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ConfusionCell:
    """The pixels of one cluster in one class."""

    class_name: str
    pixels: int
    share: float
    """Of the cluster's pixels, in [0, 1]."""
    matched: bool
    """Whether this is the cluster's class."""


@dataclass(frozen=True)
class ConfusionRow:
    """One cluster."""

    name: str
    cells: tuple[ConfusionCell, ...]
    pixels: int


def confusion_rows(
    confusion: Sequence[Sequence[int]],
    matching: Sequence[int],
    class_names: Sequence[str],
    names: Sequence[str],
) -> list[ConfusionRow]:
    """Say how each cluster's pixels spread over the classes, clusters in the order of matching.

    Args:
        confusion: Pixels per cluster (row) and class (column).
        matching: Class of each cluster, -1 where it has none; such clusters come last.
        class_names: In the order of the columns.
        names: Of the clusters.
    """
    order = sorted(
        range(len(confusion)), key=lambda cluster: (matching[cluster] < 0, matching[cluster])
    )
    return [
        _row(names[cluster], confusion[cluster], matching[cluster], class_names)
        for cluster in order
    ]


def _row(
    name: str, counts: Sequence[int], matched: int, class_names: Sequence[str]
) -> ConfusionRow:
    total = sum(counts)
    cells = tuple(
        ConfusionCell(class_name, pixels, pixels / max(1, total), number == matched)
        for number, (pixels, class_name) in enumerate(zip(counts, class_names, strict=True))
    )
    return ConfusionRow(name, cells, total)
