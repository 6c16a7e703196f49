"""Assign pixels to regions with a trained model (Eq. 3, 4), or to classes with a classifier.

A code belongs to the cluster with the nearest centroid. If clusters are merged, it belongs to that
cluster's region; its cosine with a region is the largest with one of the region's centroids.

With a classifier, the codes are the logarithms of its posteriors, and the regions are its classes.
If positions may be unknown, the codes of the head follow, and the regions of the clusters follow
the classes: they answer where no posterior is large enough.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from fusseg.segmentation.classifier import Classifier
from fusseg.segmentation.head import SegmentationHead, apply_head, build_head
from fusseg.segmentation.objective import Model, count_regions, group_clusters

_FAR = 4.0
"""More than any two cosines differ."""
_STRIP_BYTES = 2**19
"""Memory for one strip of upsampled similarities: two fit a processor's cache."""


@dataclass(frozen=True)
class Strip:
    """Some rows of an image, and the rows of its feature map available for them."""

    rows: range
    """Rows of pixels to compute."""
    first: int
    """First available row of the feature map."""
    height: int
    """Number of rows of the whole feature map."""


@dataclass(frozen=True)
class Segmenter:
    """Everything needed to turn a feature map into regions."""

    head: SegmentationHead
    centroids: Float[Tensor, "clusters code"]
    """Rows of unit length."""
    mean_feature: Float[Tensor, " dim"]
    region_of: Int[Tensor, " clusters"] | None = None
    """Region of each cluster, as in `Model`."""
    classifier: Classifier | None = None
    """Classes in place of regions; None: there are none."""

    @property
    def num_clusters(self) -> int:
        """Number of clusters, that is of centroids; at least that of their regions."""
        return len(self.centroids)

    @property
    def num_scores(self) -> int:
        """Number of values that `similarities` computes for a position."""
        classes = 0 if self.classifier is None else self.classifier.num_classes
        return classes + (self.num_clusters if self.uses_clusters else 0)

    @property
    def num_regions(self) -> int:
        """Number of regions, K: the rows of every count, and one more than the largest label."""
        classes = 0 if self.classifier is None else self.classifier.num_classes
        own = count_regions(self.centroids, self.region_of) if self.uses_clusters else 0
        return classes + own

    @property
    def uses_clusters(self) -> bool:
        """Whether any position may belong to a cluster, and not only to a class."""
        return self.classifier is None or self.classifier.unknown_below > 0

    @cached_property
    def clusters_of(self) -> tuple[Int[Tensor, " members"], ...]:
        """Clusters of each region, ascending."""
        return group_clusters(self.centroids, self.region_of)


def build_segmenter(model: Model, mean_feature: Float[Tensor, " dim"]) -> Segmenter:
    """Make a segmenter from a trained model and its federation's mean feature."""
    centroids = normalize(model.centroids, dim=1)
    return Segmenter(build_head(model.head), centroids, mean_feature, model.region_of)


def with_classes(segmenter: Segmenter, classifier: Classifier) -> Segmenter:
    """Let a segmenter answer with classes."""
    return replace(segmenter, classifier=classifier)


def without_classes(segmenter: Segmenter) -> Segmenter:
    """Let a segmenter answer with the regions of its clusters again."""
    return replace(segmenter, classifier=None)


def match_rows(
    centroids: Float[Tensor, "clusters code"], previous: Float[Tensor, "clusters code"]
) -> Float[Tensor, "clusters code"]:
    """Reorder centroids to maximize the sum of cosines to the previous ones (Hungarian)."""
    # Imported here because it is slow, and most processes never match anything.
    from scipy.optimize import linear_sum_assignment

    cosines = normalize(previous.double(), dim=1) @ normalize(centroids.double(), dim=1).T
    _, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return centroids[torch.from_numpy(columns)]


@torch.inference_mode()
def encode(
    segmenter: Segmenter, features: Float[Tensor, "height width dim"]
) -> Float[Tensor, "height width code"]:
    """Project a feature map to codes."""
    centered = features - segmenter.mean_feature
    if segmenter.classifier is None:
        return apply_head(segmenter.head, centered)
    logits = segmenter.classifier.logits(centered)
    if not segmenter.uses_clusters:
        return logits
    return torch.cat([logits, apply_head(segmenter.head, centered)], dim=2)


def similarities(
    segmenter: Segmenter, codes: Float[Tensor, "height width code"]
) -> Float[Tensor, "clusters height width"]:
    """Compute the inner product of each code with each unit centroid: |s_i| cos(s_i, c_k).

    With a classifier, the logarithms of its posteriors come first.
    """
    if segmenter.classifier is None:
        return (codes @ segmenter.centroids.T).permute(2, 0, 1)
    logits, own = _split(segmenter.classifier, codes, dim=2)
    if not segmenter.uses_clusters:
        return logits.permute(2, 0, 1)
    return torch.cat([logits, own @ segmenter.centroids.T], dim=2).permute(2, 0, 1)


def largest_of_regions(segmenter: Segmenter, values: Tensor, dim: int) -> Tensor:
    """Take the largest value of each region's clusters; unchanged if each cluster is a region.

    Args:
        segmenter: Knows the clusters of each region.
        values: One value per cluster along one dimension, such as cosines.
        dim: That dimension.
    """
    if segmenter.region_of is None:
        return values
    parts = [values.index_select(dim, clusters).amax(dim) for clusters in segmenter.clusters_of]
    return torch.stack(parts, dim)


def cosines(
    segmenter: Segmenter, codes: Float[Tensor, "height width code"]
) -> Float[Tensor, "positions regions"]:
    """Compute the cosine of each position's code with each region (Eq. 3).

    With a classifier it is the posterior of each class. Where positions may be unknown, what a
    position is not (class or region) is shifted far below what it is.
    """
    flat = codes.flatten(0, 1)
    if segmenter.classifier is not None:
        return _posteriors(segmenter, segmenter.classifier, flat, dim=1)
    return largest_of_regions(segmenter, normalize(flat, dim=1) @ segmenter.centroids.T, dim=1)


def _posteriors(segmenter: Segmenter, classifier: Classifier, codes: Tensor, dim: int) -> Tensor:
    """Compute `cosines` of codes along one dimension, with a classifier."""
    logits, own = _split(classifier, codes, dim)
    posterior = logits.softmax(dim)
    if not segmenter.uses_clusters:
        return posterior
    along = normalize(own, dim=dim).movedim(dim, -1) @ segmenter.centroids.T
    cosine = largest_of_regions(segmenter, along.movedim(-1, dim), dim)
    unknown = posterior.amax(dim, keepdim=True) < classifier.unknown_below
    return torch.cat([posterior - _FAR * unknown, cosine - _FAR * ~unknown], dim)


def _split(classifier: Classifier, codes: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Separate the logarithms of the posteriors from the codes of the head."""
    number = classifier.num_classes
    return codes.narrow(dim, 0, number), codes.narrow(dim, number, codes.shape[dim] - number)


def segment(
    segmenter: Segmenter,
    codes: Float[Tensor, "height width code"],
    size: tuple[int, int],
    part: Strip | None = None,
) -> UInt8[Tensor, "rows columns"]:
    """Assign each pixel to the region of its nearest centroid.

    Args:
        segmenter: Its centroids and regions are used.
        codes: Codes of an image, or of the rows that `part` names.
        size: Height and width of the image in pixels.
        part: As in `assign`.
    """
    scores = similarities(segmenter, codes)
    if segmenter.classifier is None:
        return assign(scores, size, part, segmenter.region_of)
    if not segmenter.uses_clusters:
        return assign(scores, size, part)
    return _assign_known(segmenter, segmenter.classifier, scores, size, part)


def _assign_known(
    segmenter: Segmenter,
    classifier: Classifier,
    scores: Float[Tensor, "scores height width"],
    size: tuple[int, int],
    part: Strip | None,
) -> UInt8[Tensor, "rows columns"]:
    """Assign each pixel to its class or, where no class is likely enough, to its region."""
    number, least = classifier.num_classes, math.log(classifier.unknown_below)
    classes = torch.arange(number, dtype=scores.dtype)[:, None]
    regions = segmenter.region_of
    if regions is None:
        regions = torch.arange(segmenter.num_clusters)
    after = (number + regions).to(scores.dtype)[:, None]
    parts = []
    for strip in _upsample(scores, size, part):
        known = strip[:, :number].log_softmax(dim=1).amax(dim=1) >= least
        own_class = _first_largest(strip[:, :number].clone(), classes)
        parts.append(torch.where(known, own_class, _first_largest(strip[:, number:], after)))
    return torch.cat(parts)


def assign(
    scores: Float[Tensor, "clusters height width"],
    size: tuple[int, int],
    part: Strip | None = None,
    region_of: Int[Tensor, " clusters"] | None = None,
) -> UInt8[Tensor, "rows columns"]:
    """Upsample codes bilinearly to pixels and assign each pixel to its nearest centroid.

    The method upsamples the codes and takes the largest cosine. Upsampling is linear and a code's
    length is the same for all centroids, so upsampling the K similarities instead of the D code
    channels gives the same index (parity test).

    Args:
        scores: `similarities` of a feature map.
        size: Height and width of the image in pixels.
        part: Which rows to return, and which rows of the feature map `scores` holds; None: all.
        region_of: Region of each cluster; None: each cluster is a region of its own.

    Returns:
        Region of the nearest centroid of each pixel; of equally near ones, the lowest region.
    """
    labels = torch.arange(len(scores)) if region_of is None else region_of
    column = labels.to(scores.dtype)[:, None]
    return torch.cat([_first_largest(strip, column) for strip in _upsample(scores, size, part)])


def pixel_cosines(
    segmenter: Segmenter, codes: Float[Tensor, "height width code"], size: tuple[int, int]
) -> Float[Tensor, "regions rows columns"]:
    """Upsample codes bilinearly to pixels and compute each pixel's cosine with each region.

    Args:
        segmenter: Its centroids and regions are used.
        codes: Codes of one image.
        size: Height and width of the result in pixels.
    """
    upsampled = _upsample(codes.permute(2, 0, 1), size)
    if segmenter.classifier is not None:
        known = segmenter.classifier
        found = [_posteriors(segmenter, known, strip, dim=1).transpose(0, 1) for strip in upsampled]
        return torch.cat(found, dim=1)
    # Merged strip by strip: only the cosines with the regions are in memory for all pixels.
    strips = [
        largest_of_regions(
            segmenter,
            torch.einsum("kc,rcw->krw", segmenter.centroids, normalize(strip, dim=1)),
            dim=0,
        )
        for strip in upsampled
    ]
    return torch.cat(strips, dim=1)


def _upsample(
    scores: Float[Tensor, "clusters height width"],
    size: tuple[int, int],
    part: Strip | None = None,
) -> Iterator[Float[Tensor, "strip clusters columns"]]:
    """Upsample in strips of rows, so that memory does not grow with the image.

    Each strip is overwritten by the next one.
    """
    rows, columns = size
    clusters, height, _ = scores.shape
    part = part or Strip(range(rows), 0, height)
    # Rows first: a strip is then made of whole blocks, and its largest is found in the cache.
    wide = interpolate(
        scores.permute(1, 0, 2).reshape(1, height * clusters, 1, -1), (1, columns), mode="bilinear"
    ).reshape(height, clusters, columns)
    place = torch.arange(part.rows.start, part.rows.stop, dtype=torch.float64)
    place = ((place + 0.5) * (part.height / rows) - 0.5).clamp(0, part.height - 1)
    above = place.floor().long()
    weight = (place - above).float()[:, None, None]
    below = (above + 1).clamp(max=part.height - 1) - part.first
    above = above - part.first
    strip = min(len(part.rows), max(1, _STRIP_BYTES // (4 * clusters * columns)))
    upper, lower = torch.empty(2, strip, clusters, columns)
    for lines in (slice(start, start + strip) for start in range(0, len(part.rows), strip)):
        length = len(above[lines])
        torch.index_select(wide, 0, above[lines], out=upper[:length]).mul_(1 - weight[lines])
        torch.index_select(wide, 0, below[lines], out=lower[:length]).mul_(weight[lines])
        yield upper[:length].add_(lower[:length])


def _first_largest(
    strip: Float[Tensor, "rows clusters columns"], labels: Float[Tensor, "clusters 1"]
) -> UInt8[Tensor, "rows columns"]:
    """Find the label of the largest value (the lowest of equal ones); overwrites the strip.

    Four vectorized passes are faster than argmax, or max with indices, which go pixel by pixel.
    """
    smaller = strip.lt_(strip.amax(dim=1, keepdim=True))
    return torch.add(labels, smaller, alpha=256, out=smaller).amin(dim=1).to(torch.uint8)
