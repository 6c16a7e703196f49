"""Scores of a data set: count pixels, match clusters with classes, score (method section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

UNMATCHED = -1
"""Class of clusters left without one because there are more clusters than classes."""
_VALUES = 256
"""Number of values of a byte."""


def count_pixels(
    clusters: UInt8[Tensor, "*pixels"],
    labels: UInt8[Tensor, "*pixels"],
    num_clusters: int,
    num_classes: int,
) -> Int[Tensor, "{num_clusters} {num_classes}"]:
    """Count the pixels of each cluster in each class; counts of images can be added up.

    >>> clusters = torch.tensor([[0, 0], [1, 1]], dtype=torch.uint8)
    >>> labels = torch.tensor([[1, 1], [0, 255]], dtype=torch.uint8)
    >>> count_pixels(clusters, labels, num_clusters=2, num_classes=2)
    tensor([[0, 2],
            [1, 0]])

    Args:
        clusters: Cluster of each pixel.
        labels: Class of each pixel; a value of `num_classes` or above is ignored.
        num_clusters: Number of clusters, the rows of the result.
        num_classes: Number of classes, the columns of the result.
    """
    # Counting all 256 values and dropping those of no class is faster than selecting pixels.
    pairs = clusters.flatten().int() * _VALUES + labels.flatten()
    counts = torch.bincount(pairs, minlength=num_clusters * _VALUES)
    return counts.reshape(num_clusters, _VALUES)[:, :num_classes].contiguous()


def match_clusters(confusion: Int[Tensor, "clusters classes"]) -> Int[Tensor, " clusters"]:
    """Match clusters to classes so that most pixels agree (Hungarian method; method section 5).

    Ties: matchings that agree in equally many pixels can differ in mIoU. The one with the largest
    sum of IoU is taken, so that scores do not depend on the order of the clusters.

    >>> match_clusters(torch.tensor([[1, 8], [6, 0], [2, 2]]))
    tensor([ 1,  0, -1])

    Args:
        confusion: Pixel counts, `confusion[k, c]` for cluster k and class c.

    Returns:
        Class of each cluster, or `UNMATCHED`.
    """
    # Imported here because it is slow, and most processes never match anything.
    from scipy.optimize import linear_sum_assignment

    iou = pair_iou(confusion).nan_to_num(0).numpy()
    # A sum of IoU is at most min(K, C), so this term stays below one pixel.
    profit = confusion.double().numpy() + iou / (min(confusion.shape) + 1)
    clusters, classes = linear_sum_assignment(profit, maximize=True)
    matching = np.full(len(confusion), UNMATCHED, dtype=np.int64)
    matching[clusters] = classes
    return torch.from_numpy(matching)


def pair_iou(confusion: Int[Tensor, "clusters classes"]) -> Float[Tensor, "clusters classes"]:
    """Compute the IoU of every cluster with every class, in float64; NaN if both are empty."""
    counts = confusion.double()
    union = counts.sum(dim=1, keepdim=True) + counts.sum(dim=0, keepdim=True) - counts
    return counts / union


@dataclass(frozen=True)
class Scores:
    """Scores after matching, all in [0, 1]."""

    mean_iou: float
    """IoU of summed counts, mean over the classes that occur in the labels."""
    mean_iou_stego: float
    """Mean IoU as STEGO defines it, for comparison with published figures; see
    `stego_mean_iou`."""
    pixel_accuracy: float
    class_iou: Float[Tensor, " classes"]
    """IoU of each class; NaN for a class that does not occur in the labels."""
    matching: Int[Tensor, " clusters"]
    """Class of each cluster, or `UNMATCHED`."""


def score(
    confusion: Int[Tensor, "clusters classes"], matching: Int[Tensor, " clusters"] | None = None
) -> Scores:
    """Match clusters to classes, then score.

    Pixels of an unmatched cluster are wrong: they count in the union of their own class only.

    >>> scores = score(torch.tensor([[2, 6], [6, 2]]))
    >>> scores.matching
    tensor([1, 0])
    >>> scores.mean_iou, scores.pixel_accuracy
    (0.6, 0.75)

    Args:
        confusion: Pixel counts summed over the data set, so that the mIoU is that of the data set
            and not a mean over images.
        matching: Class of each cluster; None: the best matching for these counts.

    Raises:
        ValueError: If no pixel was counted.
    """
    if confusion.sum() == 0:
        raise ValueError("scores need at least one labeled pixel, got none")
    matching = match_clusters(confusion) if matching is None else matching
    num_classes = confusion.shape[1]
    matched = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    kept = matching != UNMATCHED
    matched.index_add_(0, matching[kept], confusion[kept].double())
    hits, labeled = matched.diagonal(), confusion.sum(dim=0).double()
    union_iou = hits / (matched.sum(dim=1) + labeled - hits)
    class_iou = union_iou.masked_fill(labeled == 0, torch.nan)
    return Scores(
        mean_iou=float(class_iou.nanmean()),
        mean_iou_stego=stego_mean_iou(union_iou, int(confusion[~kept].sum())),
        pixel_accuracy=float(hits.sum() / confusion.sum()),
        class_iou=class_iou,
        matching=matching,
    )


def stego_mean_iou(iou: Float[Tensor, " classes"], num_unmatched: int) -> float:
    """Compute the mean IoU as STEGO's published code does (arXiv 2203.08414).

    The mean is over the classes that are labeled or predicted: a class that is predicted but never
    labeled counts as 0. All unmatched clusters together count as one more such class.

    Args:
        iou: IoU of each class; NaN for a class that is neither labeled nor predicted.
        num_unmatched: Number of labeled pixels in unmatched clusters.
    """
    num_counted = int((~iou.isnan()).sum()) + (num_unmatched > 0)
    return float(iou.nansum() / num_counted)


def score_named(
    confusion: Sequence[Sequence[int]], names: Sequence[str], class_names: Sequence[str]
) -> dict[str, Any] | None:
    """Score each cluster as the class it is named after, instead of the best matching.

    A matching gives each class at most one cluster; several clusters can have the name of one
    class. Clusters that are not named after a class are wrong everywhere, like unmatched ones.

    >>> found = score_named([[6, 0], [2, 0], [0, 4]], ["road", "road", "sky"], ["road", "sky"])
    >>> found["mean_iou"]
    1.0

    Args:
        confusion: Pixel counts of each cluster (row) and class (column).
        names: Given name of each cluster.
        class_names: Names of the classes, in the order of the columns.

    Returns:
        `mean_iou`, `pixel_accuracy` and `per_class_iou` as in the record; None if no cluster is
        named after a class.
    """
    index_of = {name: index for index, name in enumerate(class_names)}
    classes = [index_of.get(name, UNMATCHED) for name in names]
    if all(index == UNMATCHED for index in classes):
        return None
    scores = score(torch.tensor(confusion), torch.tensor(classes))
    return {
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "per_class_iou": iou_by_name(scores, class_names),
    }


def iou_by_name(scores: Scores, class_names: Sequence[str]) -> dict[str, float | None]:
    """Give the IoU of each class by its name; None for a class that does not occur."""
    values = scores.class_iou.tolist()
    return {
        name: None if value != value else value
        for name, value in zip(class_names, values, strict=True)
    }
