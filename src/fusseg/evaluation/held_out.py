"""Score a segmenter on images that no client trained on (method section 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fusseg.config import DataConfig, Fit
from fusseg.data.items import Classes, Item
from fusseg.data.masks import fit_mask, infer_classes, load_mask
from fusseg.evaluation.confusion import count_pixels
from fusseg.evaluation.quality import Quality, QualitySums, average_quality, sum_quality
from fusseg.evaluation.scores import Scores, score
from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.segmenter import Segmenter, assign, cosines, encode, similarities

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
class LabeledScores:
    """Scores over all held-out images and per site, with the counts they follow from."""

    confusion: Confusion
    overall: Scores
    site_scores: dict[str, Scores]
    """Each site under the matching of all sites together."""
    num_images: dict[str, int]
    """Labeled images per site."""


@dataclass(frozen=True)
class Evaluation:
    """Label-free figures over all images, and scores where there are labels."""

    quality: Quality
    scores: LabeledScores | None
    """None where no pixel is labeled."""


def hold_out(
    items: Sequence[Item], features: FeatureSet, classes: Classes | None, data: DataConfig
) -> HeldOut:
    """Join held-out items with their features, and look at every mask before it is needed.

    Args:
        items: One per image of `features`, in its order.
        features: Their features.
        classes: Names of the pixel values; None: inferred from the masks, if there are any.
        data: Size and fit of the images.

    Raises:
        DataError: If a mask cannot be read or holds a value that is no class.
    """
    masks = [item for item in items if item.mask is not None]
    if not masks:
        return HeldOut(tuple(items), features, None, data.image_size, data.fit)
    known = infer_classes(masks) if classes is None else classes
    for item in masks:
        # A bad mask must show before training and not after it.
        load_mask(item, known)
    return HeldOut(tuple(items), features, known, data.image_size, data.fit)


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


def evaluate(segmenter: Segmenter, held_out: HeldOut) -> Evaluation:
    """Go once over all images: label-free figures, and counts where there are labels.

    Raises:
        DataError: If a mask cannot be read or holds a value that is no class.
    """
    sums: list[QualitySums] = []
    counts: dict[str, list[Confusion]] = {}
    for index, item in enumerate(held_out.items):
        codes = encode(segmenter, held_out.features.feature_map(index))
        sums.append(sum_quality(cosines(segmenter, codes)))
        counted = _count_labels(segmenter, codes, held_out, index)
        if counted is not None:
            counts.setdefault(item.site, []).append(counted)
    return Evaluation(average_quality(sums), score_sites(counts))


def score_sites(counts: Mapping[str, Sequence[Confusion]]) -> LabeledScores | None:
    """Match clusters to classes once for all sites, then score over all and per site.

    Args:
        counts: Counts of the labeled images of each site; a site without a labeled pixel is left
            out.
    """
    confusion = {site: torch.stack(list(images)).sum(dim=0) for site, images in counts.items()}
    confusion = {site: found for site, found in confusion.items() if found.sum() > 0}
    if not confusion:
        return None
    total = torch.stack(list(confusion.values())).sum(dim=0)
    overall = score(total)
    return LabeledScores(
        confusion=total,
        overall=overall,
        site_scores={site: score(found, overall.matching) for site, found in confusion.items()},
        num_images={site: len(counts[site]) for site in confusion},
    )


def segment_held_out(
    segmenter: Segmenter, held_out: HeldOut, index: int
) -> UInt8[Tensor, "height width"]:
    """Segment one held-out image at the size its labels have."""
    codes = encode(segmenter, held_out.features.feature_map(index))
    return assign(similarities(segmenter, codes), held_out.image_size)


def _count_labels(
    segmenter: Segmenter, codes: Float[Tensor, "h w code"], held_out: HeldOut, index: int
) -> Confusion | None:
    labels = read_labels(held_out, index)
    if labels is None or held_out.classes is None:
        return None
    clusters = assign(similarities(segmenter, codes), held_out.image_size)
    num_classes = len(held_out.classes.names)
    return count_pixels(clusters, labels, segmenter.num_clusters, num_classes)
