"""Score a segmenter on images that no client trained on (method section 5)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fusseg.config.schema import EvaluationConfig
from fusseg.data.images import fit_image, load_image
from fusseg.data.items import Classes, Item
from fusseg.data.masks import fit_mask, infer_classes, load_mask
from fusseg.evaluation.quality import (
    Quality,
    QualitySums,
    add_quality,
    average_quality,
    sum_quality,
)
from fusseg.evaluation.scores import Scores, count_pixels, score
from fusseg.features.extraction import SiteFeatures
from fusseg.features.feature_set import FeatureSet
from fusseg.features.views import View, mirror, with_mirrored
from fusseg.segmentation.assignment import (
    Segmenter,
    assign,
    cosines,
    encode,
    pixel_cosines,
    similarities,
)

Confusion = Int[Tensor, "clusters classes"]


@dataclass(frozen=True)
class HeldOut:
    """Held-out images with their features, and how they are scored."""

    views: tuple[View, ...]
    """One per image of `features`, in its order."""
    features: FeatureSet
    classes: Classes | None
    """None where no image has a mask."""
    mirrored: FeatureSet | None = None
    """Features of the mirror images, where codes are averaged with theirs."""
    crf: bool = False
    """Whether what is scored is refined with a dense CRF."""

    @property
    def items(self) -> tuple[Item, ...]:
        """The images, in the order of their features."""
        return tuple(view.item for view in self.views)


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


def gather_held_out(
    views: Sequence[View],
    features: SiteFeatures,
    classes: Classes | None,
    evaluation: EvaluationConfig,
) -> HeldOut:
    """Join what was extracted of the held-out images; skipped ones are left out.

    Args:
        views: The held-out images.
        features: Where the features of the views and, for flip averaging, of their mirror images
            are.
        classes: As in `hold_out`.
        evaluation: Whether codes are averaged and scores refined.

    Raises:
        DataError: If no image is left, or a mask is bad.
    """
    usable = [view for view in views if all(map(features.has, with_mirrored([view], evaluation)))]
    mirrored = features.of_views(map(mirror, usable)) if evaluation.flip else None
    held_out = hold_out(usable, features.of_views(usable), classes)
    return replace(held_out, mirrored=mirrored, crf=evaluation.crf)


def hold_out(views: Sequence[View], features: FeatureSet, classes: Classes | None) -> HeldOut:
    """Join held-out images with their features, and look at every mask before it is needed.

    Args:
        views: One per image of `features`, in its order.
        features: Their features.
        classes: Names of the pixel values; None: inferred from the masks, if there are any.

    Raises:
        DataError: If a mask cannot be read or holds a value that is no class.
    """
    masks = [view.item for view in views if view.item.mask is not None]
    if not masks:
        return HeldOut(tuple(views), features, None)
    known = infer_classes(masks) if classes is None else classes
    for item in masks:
        # A bad mask must show before training and not after it.
        load_mask(item, known)
    return HeldOut(tuple(views), features, known)


def read_labels(held_out: HeldOut, index: int) -> UInt8[Tensor, "height width"] | None:
    """Read one image's labels as the backbone saw the image; None if it has no mask.

    Returns:
        Class of each pixel; the number of classes where it is ignored.

    Raises:
        DataError: If the mask cannot be read or holds a value that is no class.
    """
    item, settings = held_out.views[index].item, held_out.views[index].settings
    if item.mask is None or held_out.classes is None:
        return None
    mask = fit_mask(load_mask(item, held_out.classes), settings.image_size, settings.fit)
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
    # Added up as they come: small tensors kept between large ones keep the allocator from using
    # the room of the large ones again, and memory would grow with the number of images.
    sums: QualitySums | None = None
    counts: dict[str, Confusion] = {}
    num_images: Counter[str] = Counter()
    for index, view in enumerate(held_out.views):
        codes = encode_held_out(segmenter, held_out, index)
        found = sum_quality(cosines(segmenter, codes))
        sums = found if sums is None else add_quality(sums, found)
        counted = _count_labels(segmenter, codes, held_out, index)
        if counted is not None:
            site = view.item.client
            counts[site] = counts[site] + counted if site in counts else counted
            num_images[site] += 1
    return Evaluation(average_quality([] if sums is None else [sums]), _score(counts, num_images))


def score_sites(counts: Mapping[str, Sequence[Confusion]]) -> LabeledScores | None:
    """Match clusters to classes once for all sites, then score over all and per site.

    Args:
        counts: Counts of the labeled images of each site; a site without a labeled pixel is left
            out.
    """
    confusion = {site: torch.stack(list(images)).sum(dim=0) for site, images in counts.items()}
    return _score(confusion, {site: len(images) for site, images in counts.items()})


def _score(
    confusion: Mapping[str, Confusion], num_images: Mapping[str, int]
) -> LabeledScores | None:
    confusion = {site: found for site, found in confusion.items() if found.sum() > 0}
    if not confusion:
        return None
    total = torch.stack(list(confusion.values())).sum(dim=0)
    overall = score(total)
    return LabeledScores(
        confusion=total,
        overall=overall,
        site_scores={site: score(found, overall.matching) for site, found in confusion.items()},
        num_images={site: num_images[site] for site in confusion},
    )


def encode_held_out(
    segmenter: Segmenter, held_out: HeldOut, index: int
) -> Float[Tensor, "h w code"]:
    """Encode one image; with flip averaging, the mean with the codes of its mirror image."""
    codes = encode(segmenter, held_out.features.feature_map(index))
    if held_out.mirrored is None:
        return codes
    mirrored = encode(segmenter, held_out.mirrored.feature_map(index))
    return (codes + mirrored.flip(1)) / 2


def segment_held_out(
    segmenter: Segmenter, held_out: HeldOut, index: int
) -> UInt8[Tensor, "height width"]:
    """Segment one held-out image at the size its labels have."""
    return _segment(segmenter, encode_held_out(segmenter, held_out, index), held_out, index)


def _segment(
    segmenter: Segmenter, codes: Float[Tensor, "h w code"], held_out: HeldOut, index: int
) -> UInt8[Tensor, "height width"]:
    item, seen = held_out.views[index].item, held_out.views[index].settings
    if not held_out.crf:
        return assign(similarities(segmenter, codes), seen.image_size)
    # Here and not above: its parts of scipy take long to import, and few evaluations refine.
    from fusseg.evaluation.crf import refine

    image = fit_image(
        load_image(item, seen.decoding), seen.image_size, seen.fit, seen.interpolation
    )
    return torch.from_numpy(refine(image, pixel_cosines(segmenter, codes, seen.image_size).numpy()))


def _count_labels(
    segmenter: Segmenter, codes: Float[Tensor, "h w code"], held_out: HeldOut, index: int
) -> Confusion | None:
    labels = read_labels(held_out, index)
    if labels is None or held_out.classes is None:
        return None
    clusters = _segment(segmenter, codes, held_out, index)
    num_classes = len(held_out.classes.names)
    return count_pixels(clusters, labels, segmenter.num_clusters, num_classes)
