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
from fusseg.segmentation.assignment import Segmenter, cosines, encode, pixel_cosines, segment

Confusion = Int[Tensor, "clusters classes"]


@dataclass(frozen=True)
class HeldOut:
    """Held-out images with their features, and how they are scored."""

    views: tuple[View, ...]
    """One per image of `features`, in the same order."""
    features: FeatureSet
    classes: Classes | None
    """None if no image has a mask."""
    mirrored: FeatureSet | None = None
    """Features of the mirror images, for flip averaging."""
    crf: bool = False
    """Whether segmentations are refined with a dense CRF before they are scored."""

    @property
    def items(self) -> tuple[Item, ...]:
        """The images, in the order of their features."""
        return tuple(view.item for view in self.views)


@dataclass(frozen=True)
class LabeledScores:
    """Scores over all held-out images and per site, with the pixel counts."""

    confusion: Confusion
    overall: Scores
    site_scores: dict[str, Scores]
    """Scores of each site, under the common matching of all sites."""
    num_images: dict[str, int]
    """Number of labeled images of each site."""


@dataclass(frozen=True)
class Evaluation:
    """Label-free figures over all images, and scores if there are labels."""

    quality: Quality
    scores: LabeledScores | None
    """None if no pixel is labeled."""


def gather_held_out(
    views: Sequence[View],
    features: SiteFeatures,
    classes: Classes | None,
    evaluation: EvaluationConfig,
) -> HeldOut:
    """Collect the held-out images with their features; skipped images are left out.

    Args:
        views: The held-out images.
        features: Features of the views and, for flip averaging, of their mirror images.
        classes: As in `hold_out`.
        evaluation: Whether to use flip averaging and a CRF.

    Raises:
        DataError: If no image is left, or a mask is invalid.
    """
    usable = [view for view in views if all(map(features.has, with_mirrored([view], evaluation)))]
    mirrored = features.of_views(map(mirror, usable)) if evaluation.flip else None
    held_out = hold_out(usable, features.of_views(usable), classes)
    return replace(held_out, mirrored=mirrored, crf=evaluation.crf)


def hold_out(views: Sequence[View], features: FeatureSet, classes: Classes | None) -> HeldOut:
    """Combine held-out images with their features, and check every mask in advance.

    Args:
        views: One per image of `features`, in the same order.
        features: Features of the images.
        classes: Names of the pixel values; None: inferred from the masks, if there are any.

    Raises:
        DataError: If a mask cannot be read or contains a value that is not a class.
    """
    masks = [view.item for view in views if view.item.mask is not None]
    if not masks:
        return HeldOut(tuple(views), features, None)
    known = infer_classes(masks) if classes is None else classes
    for item in masks:
        # An invalid mask has to be reported before training, not after it.
        load_mask(item, known)
    return HeldOut(tuple(views), features, known)


def read_labels(held_out: HeldOut, index: int) -> UInt8[Tensor, "height width"] | None:
    """Read one image's labels, resized as the image was for the backbone; None without a mask.

    Returns:
        Class of each pixel; the number of classes for ignored pixels.

    Raises:
        DataError: If the mask cannot be read or contains a value that is not a class.
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
    """Evaluate all images in one pass: label-free figures, and scores if there are labels.

    Raises:
        DataError: If a mask cannot be read or contains a value that is not a class.
    """
    # Added up right away: small tensors kept between large ones would prevent the allocator from
    # reusing the memory of the large ones, and memory would grow with the number of images.
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
    """Match clusters to classes once for all sites, then compute total and per-site scores.

    Args:
        counts: Pixel counts of the labeled images of each site; sites without a labeled pixel are
            left out.
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
    """Encode one image; with flip averaging, average its codes with those of its mirror image."""
    codes = encode(segmenter, held_out.features.feature_map(index))
    if held_out.mirrored is None:
        return codes
    mirrored = encode(segmenter, held_out.mirrored.feature_map(index))
    return (codes + mirrored.flip(1)) / 2


def segment_held_out(
    segmenter: Segmenter, held_out: HeldOut, index: int
) -> UInt8[Tensor, "height width"]:
    """Segment one held-out image at the size of its labels."""
    return _segment(segmenter, encode_held_out(segmenter, held_out, index), held_out, index)


def _segment(
    segmenter: Segmenter, codes: Float[Tensor, "h w code"], held_out: HeldOut, index: int
) -> UInt8[Tensor, "height width"]:
    item, seen = held_out.views[index].item, held_out.views[index].settings
    if not held_out.crf:
        return segment(segmenter, codes, seen.image_size)
    # Imported here because its parts of scipy are slow to import and few evaluations refine.
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
    return count_pixels(clusters, labels, segmenter.num_regions, num_classes)
