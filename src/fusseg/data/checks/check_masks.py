"""Check the masks of a data set: which cannot be read, and whether their values can be classes."""

from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from contextlib import suppress

import numpy as np
from jaxtyping import UInt8

from fusseg.core.errors import DataError
from fusseg.data.findings import Finding, counted, item_name
from fusseg.data.items import Classes, Item
from fusseg.data.mask_values import see_values
from fusseg.data.masks import classes_of, load_mask, read_values

_ANY = Classes(tuple(str(value) for value in range(256)))
"""Stands for unknown classes: every value of a mask is one."""


def find_fault(item: Item, classes: Classes) -> str:
    """Say what is wrong with an item's mask; empty if it is good or there is none."""
    if item.mask is None:
        return ""
    try:
        load_mask(item, classes)
    except DataError as error:
        return str(error)
    return ""


def describe_faults(faults: Mapping[Item, str], scored: Set[Item]) -> Iterator[Finding]:
    """Report bad masks; those of one site with the same fault are reported together.

    Args:
        faults: Result of `find_fault` for each item.
        scored: Items that a run scores; it reads no other masks.
    """
    groups: dict[tuple[bool, str, str], list[Item]] = defaultdict(list)
    for item, fault in faults.items():
        if fault:
            kind = fault.removesuffix(f": {item.mask}")
            groups[item in scored, item.site, kind].append(item)
    for (is_scored, _, kind), items in groups.items():
        more = ""
        if items[1:]:
            more = f"; {counted(len(items) - 1, 'more mask')} of this site with the same fault"
        yield Finding(
            "error" if is_scored else "warning",
            item_name(items[0]),
            f"{kind}{more}{faults[items[0]].removeprefix(kind)}",
        )


def name_classes(
    items: Sequence[Item], scored: Set[Item], subject: str
) -> Generator[Finding, None, Classes]:
    """Infer classes without a classes.toml from the values of the scored masks, as a run does.

    If nothing is scored, all masks are read, and a fault that would prevent scoring is a warning.

    Args:
        items: Items with a readable image.
        scored: Items that a run scores.
        subject: Name of the data set in findings.

    Returns:
        The classes of the scored masks; every value is a class if there are none.
    """
    seen = see_values(_readable([item for item in items if not scored or item in scored]))
    if not seen.first:
        return _ANY
    try:
        classes = classes_of(seen)
    except DataError as error:
        yield Finding("error" if scored else "warning", subject, str(error))
        return _ANY
    if not scored:
        return _ANY
    yield Finding(
        "note",
        subject,
        f"no classes.toml; the scored masks show {len(seen.counts.values - {255})} of the classes "
        f"0 to {len(classes.names) - 1}, {classes.ignore_index} ignored",
    )
    return classes


def doubt_masks(items: Sequence[Item], classes: Classes | None, subject: str) -> Iterator[Finding]:
    """Warn of faults that would prevent some masks from being scored.

    Args:
        items: Items to look at.
        classes: Classes of a classes.toml or the layout, if there are any.
        subject: As in `name_classes`.
    """
    if classes is None:
        classes = yield from name_classes(items, frozenset(), subject)
    faults = {item: find_fault(item, classes) for item in items}
    yield from describe_faults(faults, frozenset())


def _readable(items: Sequence[Item]) -> Iterator[tuple[object, UInt8[np.ndarray, "_ _"]]]:
    """Read the masks that can be read; the others are reported by `describe_faults`."""
    for item in items:
        if item.mask is None:
            continue
        with suppress(DataError):
            values = read_values(item)
            yield item.mask, values
