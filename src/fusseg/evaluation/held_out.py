"""Score a segmenter on images that no client trained on (method section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fusseg.config import DataConfig, Fit
from fusseg.data.items import Classes, Item
from fusseg.data.masks import fit_mask, infer_classes, load_mask
from fusseg.evaluation.confusion import count_pixels
from fusseg.evaluation.scores import Scores, score
from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.segmenter import Segmenter, assign, similarities

Confusion = Int[Tensor, "clusters classes"]


@dataclass(frozen=True)
class HeldOut:
    """Held-out images with their features, and how to read their labels."""

    items: tuple[Item, ...]
    """One per image of `features`, in its order."""
    features: FeatureSet
    classes: Classes | None
    """None where no image has a mask."""
    image_size: tuple[int, int]
    fit: Fit


@dataclass(frozen=True)
class Evaluation:
    """Counts per held-out site and the scores that follow from them."""

    site_confusion: dict[str, Confusion]
    num_images: dict[str, int]
    """Labeled images per site."""
    overall: Scores
    site_scores: dict[str, Scores]
    """Each site under the matching of all sites together."""

    @property
    def confusion(self) -> Confusion:
        """Counts over all held-out images."""
        return torch.stack(list(self.site_confusion.values())).sum(dim=0)


def hold_out(
    items: Sequence[Item], features: FeatureSet, classes: Classes | None, data: DataConfig
) -> HeldOut:
    """Join held-out items with their features.

    Args:
        items: One per image of `features`, in its order.
        features: Their features.
        classes: Names of the pixel values; None: inferred from the masks, if there are any.
        data: Size and fit of the images.

    Raises:
        DataError: If classes are not given and a mask cannot be read.
    """
    masks = [item for item in items if item.mask is not None]
    if not masks:
        classes = None
    elif classes is None:
        classes = infer_classes(masks)
    return HeldOut(tuple(items), features, classes, data.image_size, data.fit)


def read_labels(held_out: HeldOut, index: int) -> UInt8[Tensor, "height width"] | None:
    """Read one image's labels as the backbone saw the image; None if it has no mask.

    Returns:
        Class of each pixel; the number of classes where it is ignored.

    Raises:
        DataError: If the mask cannot be read or holds a value that is no class.
    """
    item = held_out.items[index]
    if item.mask is None or held_out.classes is None:
        return None
    mask = fit_mask(load_mask(item, held_out.classes), held_out.image_size, held_out.fit)
    labels = torch.from_numpy(mask)
    if held_out.classes.ignore_index is not None:
        ignored = labels == held_out.classes.ignore_index
        labels = labels.masked_fill(ignored, len(held_out.classes.names))
    return labels


def segment_held_out(
    segmenter: Segmenter, held_out: HeldOut, index: int
) -> UInt8[Tensor, "height width"]:
    """Segment one held-out image at the size its labels have."""
    features = held_out.features.feature_map(index)
    return assign(similarities(segmenter, features), held_out.image_size)


def evaluate(segmenter: Segmenter, held_out: HeldOut) -> Evaluation | None:
    """Count over all held-out images, match once, score over all and per site.

    Returns:
        None if no held-out pixel is labeled.

    Raises:
        DataError: If a mask cannot be read or holds a value that is no class.
    """
    if held_out.classes is None:
        return None
    num_classes = len(held_out.classes.names)
    counts: dict[str, Confusion] = {}
    num_images: dict[str, int] = {}
    for index, item in enumerate(held_out.items):
        labels = read_labels(held_out, index)
        if labels is None:
            continue
        clusters = segment_held_out(segmenter, held_out, index)
        counted = count_pixels(clusters, labels, segmenter.num_clusters, num_classes)
        counts[item.site] = counts[item.site] + counted if item.site in counts else counted
        num_images[item.site] = num_images.get(item.site, 0) + 1
    counts = {site: confusion for site, confusion in counts.items() if confusion.sum() > 0}
    if not counts:
        return None
    overall = score(torch.stack(list(counts.values())).sum(dim=0))
    site_scores = {site: score(confusion, overall.matching) for site, confusion in counts.items()}
    return Evaluation(counts, num_images, overall, site_scores)
