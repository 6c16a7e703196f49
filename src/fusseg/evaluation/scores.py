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
    class_iou = hits / (matched.sum(dim=1) + labeled - hits)
    class_iou[labeled == 0] = torch.nan
    return Scores(
        mean_iou=float(class_iou.nanmean()),
        pixel_accuracy=float(hits.sum() / confusion.sum()),
        class_iou=class_iou,
        matching=matching,
    )
