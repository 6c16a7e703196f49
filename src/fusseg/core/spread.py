"""Choosing a few entries of many."""

from collections.abc import Sequence
from typing import TypeVar

Entry = TypeVar("Entry")


def spread_evenly(entries: Sequence[Entry], most: int | None) -> list[Entry]:
    """Choose at most `most` entries, in even steps from the first to the last.

    Args:
        entries: All entries.
        most: Largest number of entries that is chosen; None: all.
    """
    if most is None or len(entries) <= most:
        return list(entries)
    last = max(1, most - 1)
    return [entries[place * (len(entries) - 1) // last] for place in range(most)]
