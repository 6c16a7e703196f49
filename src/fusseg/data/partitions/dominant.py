"""Which class covers most of each image; reads masks, which training never does."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.masks import count_classes, infer_classes

UNLABELED = -1
"""In place of the dominant class of an image without a labeled pixel."""


def known_classes(items: Sequence[Item], dataset: Dataset) -> Classes | None:
    """Name the classes of the items' masks; None where they have none.

    Raises:
        DataError: If a mask cannot be read.
    """
    if not any(item.mask for item in items):
        return None
    return dataset.classes or infer_classes(items)


def count_labels(items: Sequence[Item], classes: Classes) -> Int64[np.ndarray, "images classes"]:
    """Count the pixels of each class in each image; zeros where there is no mask.

    Raises:
        DataError: If a mask is broken, or holds a value that is no class.
    """
    none = np.zeros(len(classes.names), np.int64)
    counts = [none if item.mask is None else count_classes(item, classes) for item in items]
    return np.stack(counts)


def dominant_classes(counts: Int64[np.ndarray, "images classes"]) -> Int64[np.ndarray, " images"]:
    """Find the class with most pixels, the first of equals; `UNLABELED` where all are ignored."""
    return np.where(counts.any(axis=1), counts.argmax(axis=1), UNLABELED)
