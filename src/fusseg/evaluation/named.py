"""Scores of regions by the names they were given, in place of the best matching."""

from collections.abc import Sequence
from typing import Any

import torch

from fusseg.evaluation.matching import UNMATCHED
from fusseg.evaluation.scores import score


def score_named(
    confusion: Sequence[Sequence[int]], names: Sequence[str], class_names: Sequence[str]
) -> dict[str, Any] | None:
    """Score clusters as the class that each is called, several clusters one class where they are.

    Matching gives every class one cluster at most; names are not bound to that. What is called by
    no class's name is wrong everywhere, as an unmatched cluster is.

    Args:
        confusion: Pixels of each cluster (row) and class (column).
        names: Given name of each cluster.
        class_names: In the order of the columns.

    Returns:
        `mean_iou`, `pixel_accuracy` and `per_class_iou` as in the record; None where no cluster is
        called like a class.
    """
    index_of = {name: index for index, name in enumerate(class_names)}
    classes = [index_of.get(name, UNMATCHED) for name in names]
    if all(index == UNMATCHED for index in classes):
        return None
    scores = score(torch.tensor(confusion), torch.tensor(classes))
    values = scores.class_iou.tolist()
    return {
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "per_class_iou": {
            name: None if value != value else value
            for name, value in zip(class_names, values, strict=True)
        },
    }
