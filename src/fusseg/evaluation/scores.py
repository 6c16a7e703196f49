"""Scores of a whole data set, from its summed pixel counts (method section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

UNMATCHED = -1
"""Class of a cluster that got none because clusters outnumber classes."""
_VALUES = 256
"""Values of a byte."""


def count_pixels(
    clusters: UInt8[Tensor, "*pixels"],
    labels: UInt8[Tensor, "*pixels"],
    num_clusters: int,
    num_classes: int,
) -> Int[Tensor, "{num_clusters} {num_classes}"]:
    """Count how often each cluster falls on each class; counts of images add up.

    Args:
        clusters: Region of each pixel.
        labels: Class of each pixel; a value of `num_classes` or above is ignored.
        num_clusters: Rows of the result.
        num_classes: Columns of the result.
    """
    # All 256 values are counted and those of no class cut off: faster than picking pixels.
    pairs = clusters.flatten().int() * _VALUES + labels.flatten()
    counts = torch.bincount(pairs, minlength=num_clusters * _VALUES)
    return counts.reshape(num_clusters, _VALUES)[:, :num_classes].contiguous()


def match_clusters(confusion: Int[Tensor, "clusters classes"]) -> Int[Tensor, " clusters"]:
    """Match clusters to classes so that most pixels agree (Hungarian method; method section 5).

    Tie rule: matchings that agree in equally many pixels can differ in mIoU; of them the one with
    the largest sum of IoU is taken, so that no score depends on the order of the clusters.

    Args:
        confusion: Pixel counts, `confusion[k, c]` for cluster k on class c.

    Returns:
        Class of each cluster, `UNMATCHED` where clusters outnumber classes.
    """
    # Here and not above: it takes long to import, and most processes never match anything.
    from scipy.optimize import linear_sum_assignment

    iou = pair_iou(confusion).nan_to_num(0).numpy()
    # A sum of IoU is at most min(K, C), so that its share stays below one pixel.
    profit = confusion.double().numpy() + iou / (min(confusion.shape) + 1)
    clusters, classes = linear_sum_assignment(profit, maximize=True)
    matching = np.full(len(confusion), UNMATCHED, dtype=np.int64)
    matching[clusters] = classes
    return torch.from_numpy(matching)


def pair_iou(confusion: Int[Tensor, "clusters classes"]) -> Float[Tensor, "clusters classes"]:
    """IoU of every cluster with every class, in float64; NaN where both are empty."""
    counts = confusion.double()
    union = counts.sum(dim=1, keepdim=True) + counts.sum(dim=0, keepdim=True) - counts
    return counts / union


@dataclass(frozen=True)
class Scores:
    """Scores after matching, all in [0, 1]."""

    mean_iou: float
    """IoU of summed counts, mean over the classes that occur in the labels."""
    mean_iou_stego: float
    """The same by STEGO's definition, that of published figures; see `stego_mean_iou`."""
    pixel_accuracy: float
    class_iou: Float[Tensor, " classes"]
    """NaN for a class that no label has."""
    matching: Int[Tensor, " clusters"]


def score(
    confusion: Int[Tensor, "clusters classes"], matching: Int[Tensor, " clusters"] | None = None
) -> Scores:
    """Match clusters to classes, then score.

    Pixels of an unmatched cluster are wrong: they count to their class's union and to no other's.

    Args:
        confusion: Pixel counts summed over the data set, so that mIoU is that of the data set and
            not the mean over images.
        matching: Class of each cluster; None: the best one for these counts.

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
    """Average IoU as STEGO's metric does (arXiv 2203.08414, as published with its code).

    The mean is over the classes that are labeled or predicted: one that no label has counts as 0
    where it is predicted. All unmatched clusters together are one more such class.

    Args:
        iou: IoU of each class; NaN for a class that is neither labeled nor predicted.
        num_unmatched: Labeled pixels in clusters that are matched to no class.
    """
    num_counted = int((~iou.isnan()).sum()) + (num_unmatched > 0)
    return float(iou.nansum() / num_counted)


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
