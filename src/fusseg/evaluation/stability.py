"""Judge a run without labels: by its own regions, and by comparison with another run."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from fusseg.config.schema import SEEN, Config
from fusseg.core.errors import ConfigError
from fusseg.evaluation.agreement import adjusted_rand, count_pairs
from fusseg.evaluation.held_out import HeldOut, encode_held_out
from fusseg.evaluation.quality import (
    Quality,
    QualitySums,
    add_quality,
    average_quality,
    sum_quality,
)
from fusseg.evaluation.scores import UNMATCHED, match_clusters, pair_iou
from fusseg.segmentation.assignment import Segmenter, cosines


@dataclass(frozen=True)
class ImageQuality:
    """The label-free figures of one image."""

    site: str
    stem: str
    sums: QualitySums
    agreement: float | None
    """Adjusted Rand index with the other run's regions; None without one."""


@dataclass(frozen=True)
class MatchedRegion:
    """A region and its best match in the other run."""

    cluster: int
    other: int
    """Index of the match; `UNMATCHED` if the other run has too few regions."""
    iou: float
    """IoU of the two; 0 if unmatched."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of the regions of two runs, over all positions of all images."""

    adjusted_rand: float
    regions: tuple[MatchedRegion, ...]


@dataclass(frozen=True)
class Judgement:
    """Content of the quality page."""

    overall: Quality
    sites: dict[str, Quality]
    images: tuple[ImageQuality, ...]
    """In the given order of the images."""
    agreement: Agreement | None
    """None without another run."""


def judge_regions(
    segmenter: Segmenter, other: Segmenter | None, shown: HeldOut
) -> Iterator[ImageQuality | Judgement]:
    """Judge every position of every image once; no label is read.

    Args:
        segmenter: The run's segmenter.
        other: Segmenter of a run with another seed; None: nothing is compared.
        shown: The images.

    Yields:
        The figures of each image, followed by the judgement.
    """
    images: list[ImageQuality] = []
    counts = None
    for index, item in enumerate(shown.items):
        found = cosines(segmenter, encode_held_out(segmenter, shown, index))
        agreement = None
        if other is not None:
            again = cosines(other, encode_held_out(other, shown, index))
            met = count_pairs(
                found.argmax(dim=1),
                again.argmax(dim=1),
                segmenter.num_regions,
                other.num_regions,
            )
            agreement = adjusted_rand(met)
            counts = met if counts is None else counts + met
        images.append(ImageQuality(item.client, item.stem, sum_quality(found), agreement))
        yield images[-1]
    sites: dict[str, QualitySums] = {}
    for image in images:
        known = sites.get(image.site)
        sites[image.site] = image.sums if known is None else add_quality(known, image.sums)
    yield Judgement(
        overall=average_quality(list(sites.values())),
        sites={site: average_quality([sums]) for site, sums in sorted(sites.items())},
        images=tuple(images),
        agreement=None if counts is None else compare_regions(counts),
    )


def compare_regions(counts: Int[Tensor, "clusters others"]) -> Agreement:
    """Match the regions of two runs so that most positions agree (Hungarian method).

    Args:
        counts: Shared positions of each pair of regions, from `count_pairs`.
    """
    matching, iou = match_clusters(counts), pair_iou(counts).nan_to_num(0)
    regions = [
        MatchedRegion(cluster, other, 0.0 if other == UNMATCHED else float(iou[cluster, other]))
        for cluster, other in enumerate(matching.tolist())
    ]
    return Agreement(adjusted_rand(counts), tuple(regions))


def check_comparable(config: Config, other: Config) -> None:
    """Refuse two runs that preprocess images differently.

    Raises:
        ConfigError: If the image size or another of these settings differs.
    """
    for name in SEEN:
        left, right = getattr(config.data, name), getattr(other.data, name)
        if left != right:
            raise ConfigError(
                f"the two runs preprocess images differently: data.{name} is {left!r} and "
                f"{right!r}; train the second with the first one's config.toml and another seed"
            )
