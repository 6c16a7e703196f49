"""Optimal one-to-one matching of clusters to labeled classes."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

UNMATCHED = -1
"""Class of a cluster that got none because clusters outnumber classes."""


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
