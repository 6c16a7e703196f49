"""The class that covers most of each image. This reads masks, which training never does."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.masks import count_classes, infer_classes

UNLABELED = -1
"""Stands for the dominant class of an image without labeled pixels."""


def known_classes(items: Sequence[Item], dataset: Dataset) -> Classes | None:
    """Return the classes of the items' masks; None if no item has a mask.

    Raises:
        DataError: If a mask cannot be read.
    """
    if not any(item.mask for item in items):
        return None
    return dataset.classes or infer_classes(items)


def count_labels(items: Sequence[Item], classes: Classes) -> Int64[np.ndarray, "images classes"]:
    """Count the pixels of each class in each image; zeros for an image without a mask.

    Raises:
        DataError: If a mask is broken, or holds a value that is not a class.
    """
    none = np.zeros(len(classes.names), np.int64)
    counts = [none if item.mask is None else count_classes(item, classes) for item in items]
    return np.stack(counts)


def dominant_classes(counts: Int64[np.ndarray, "images classes"]) -> Int64[np.ndarray, " images"]:
    """Find the class with the most pixels (of several, the first); `UNLABELED` if there is none.

    Examples:
        >>> dominant_classes(np.array([[5, 9], [4, 4], [0, 0]])).tolist()
        [1, 0, -1]
    """
    return np.where(counts.any(axis=1), counts.argmax(axis=1), UNLABELED)
