"""Checking whether the values of masks can be classes if there is no `classes.toml`.

A mask that was smoothed, scaled by anything but the nearest pixel, or once stored as a JPEG holds
values that nobody drew, in thin lines and specks along the borders. Without this check they would
be scored as classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

IGNORED = 255
"""Value that is ignored unless a `classes.toml` says otherwise."""

SOLID_SHARE = 0.05
"""A value "hardly occurs" if at most this share of its pixels has no other value around them."""
_MANY = 8
"""This many values that hardly occur are noise if they are more than those that do occur."""
_NEAR = 8
"""Largest difference between noise and the value that was drawn."""


@dataclass(frozen=True)
class ValueCounts:
    """Pixels of each value, summed over masks."""

    pixels: Int64[np.ndarray, "256"]
    solid: Int64[np.ndarray, "256"]
    """Pixels with no other value among their eight neighbors, except the ignored value."""
    between: Int64[np.ndarray, "256"]
    """Pixels with at least one neighbor of a lower and one of a higher value."""

    def __add__(self, other: "ValueCounts") -> "ValueCounts":
        """Add the counts of other masks."""
        return ValueCounts(
            self.pixels + other.pixels, self.solid + other.solid, self.between + other.between
        )

    @property
    def values(self) -> frozenset[int]:
        """Values that occur."""
        return frozenset(np.flatnonzero(self.pixels).tolist())


@dataclass(frozen=True)
class SeenValues:
    """The values that occur in some masks."""

    counts: ValueCounts
    first: dict[int, object]
    """Name of the first mask that holds a value."""
    blended: tuple[tuple[int, ...], ...]
    """Result of `find_blends` for each mask by itself, if it is not empty."""

    def blends(self) -> tuple[int, ...]:
        """Return values that cannot be classes, over all masks or in a few among many good ones.

        A value that is suspicious in one mask is accepted if other masks have regions of it.
        """
        found = find_blends(self.counts)
        alone = {value for values in self.blended for value in values}
        return found or tuple(sorted(alone.intersection(hardly_occurring(self.counts))))


def see_values(masks: Iterable[tuple[object, UInt8[np.ndarray, "_ _"]]]) -> SeenValues:
    """Count values in one pass over masks, each given with its name."""
    none = np.zeros(256, np.int64)
    total = ValueCounts(none, none, none)
    first: dict[int, object] = {}
    blended = []
    for name, mask in masks:
        counts = count_values(mask)
        total += counts
        first = dict.fromkeys(counts.values, name) | first
        blended.append(find_blends(counts))
    return SeenValues(total, first, tuple(filter(None, blended)))


def count_values(mask: UInt8[np.ndarray, "height width"]) -> ValueCounts:
    """Count the pixels of each value, and how many are inside regions or between others."""
    lowest, highest = _around(mask, np.minimum), _around(mask, np.maximum)
    labeled = _around(np.where(mask == IGNORED, np.uint8(0), mask), np.maximum)
    return ValueCounts(
        _bincount(mask),
        _bincount(mask[(lowest == mask) & (labeled <= mask)]),
        _bincount(mask[(lowest < mask) & (mask < highest)]),
    )


def find_blends(counts: ValueCounts) -> tuple[int, ...]:
    """Find values that come from blended borders or noise; empty if all values can be classes.

    Of the classes 0 to the largest value, more than half must hardly occur: they are absent, or
    occur only in thin lines and specks. Those that occur must look like one of

    - a blend: at least a fourth of the values, with half of their pixels between a lower and a
      higher neighbor;
    - noise: more than half of the values and at least eight; or at least three, most of them close
      to another value, while more than half of the classes are absent.

    Classes that are merely small, rare or thin are neither, nor are gaps in the numbering, nor are
    masks without any region, because blended borders lie between regions.
    """
    occurring = [value for value in sorted(counts.values) if value != IGNORED]
    thin = hardly_occurring(counts)
    if not thin or 2 * (len(occurring) - len(thin)) >= occurring[-1] + 1:
        return ()
    if thin == tuple(occurring) and _is_thin(counts)[IGNORED]:
        return ()
    return thin if _is_blended(thin, occurring, counts) else ()


def hardly_occurring(counts: ValueCounts) -> tuple[int, ...]:
    """List the values that occur only in thin lines and specks, except the ignored value."""
    thin = _is_thin(counts)
    return tuple(value for value in sorted(counts.values) if value != IGNORED and thin[value])


def _is_thin(counts: ValueCounts) -> Bool[np.ndarray, "256"]:
    return counts.solid <= SOLID_SHARE * counts.pixels


def _is_blended(thin: tuple[int, ...], occurring: list[int], counts: ValueCounts) -> bool:
    if 4 * len(thin) >= len(occurring):
        between = counts.between[list(thin)].sum()
        if 2 * between >= counts.pixels[list(thin)].sum():
            return True
    if 2 * len(thin) <= len(occurring):
        return False
    if len(thin) >= _MANY:
        return True
    drawn = [value for value in counts.values if value not in thin]
    near = sum(any(abs(value - other) <= _NEAR for other in drawn) for value in thin)
    num_absent = occurring[-1] + 1 - len(occurring)
    return len(thin) >= 3 and 2 * near > len(thin) and 2 * num_absent > occurring[-1] + 1


def _around(
    mask: UInt8[np.ndarray, "height width"], reduce: Callable[..., UInt8[np.ndarray, "..."]]
) -> UInt8[np.ndarray, "height width"]:
    """Reduce each pixel with its eight neighbors, or with fewer at the edge."""
    padded = np.pad(mask, 1, mode="edge")
    rows = reduce(reduce(padded[:-2], padded[1:-1]), padded[2:])
    return reduce(reduce(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _bincount(values: UInt8[np.ndarray, "..."]) -> Int64[np.ndarray, "256"]:
    return np.bincount(values.ravel(), minlength=256).astype(np.int64)
