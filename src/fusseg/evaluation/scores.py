"""Scores of a whole data set, from its summed pixel counts (method section 5)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fusseg.evaluation.matching import UNMATCHED, match_clusters


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
