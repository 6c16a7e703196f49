"""Name the regions of a run, by typical crops of each cluster or by labeled images."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fusseg.config.schema import DataConfig
from fusseg.core.colors import palette, spread_colors
from fusseg.core.errors import DataError
from fusseg.core.spread import spread_evenly
from fusseg.data.images import decoding_of, fit_image, load_image
from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.layouts.sites import open_sites
from fusseg.data.masks import infer_classes, load_mask
from fusseg.evaluation.scores import count_pixels
from fusseg.features.pipeline import Skipped
from fusseg.prediction.segmenter import Segmenter, encode_seen, segment_images
from fusseg.prediction.tiling import Pixels
from fusseg.prediction.viewing import PredictOptions, view_image
from fusseg.report.cluster_colors import to_color
from fusseg.runs.regions import NamedCluster
from fusseg.segmentation.assignment import cosines, segment

CROPS = 8
"""Number of crops shown per cluster, each from a different image."""
IMAGES = 60
"""Number of images searched for crops, spread evenly over the data."""
WINDOW = 4
"""Ratio of the shorter side of the image that the backbone sees to the side of a crop."""
SURE_SHARE, SURE_PIXELS = 0.5, 1000
"""A name is unsure if a smaller share of the labeled pixels agrees, or if there are fewer."""


@dataclass(frozen=True)
class Crop:
    """A crop of one image that shows a cluster."""

    pixels: Pixels
    inside: Bool[np.ndarray, "height width"]
    """Which pixels belong to the cluster."""
    score: float
    """Mean over the crop of the cosine to the centroid, counted as 0 outside of the cluster."""


@dataclass(frozen=True)
class Typical:
    """The most typical crops of every cluster, and its share of the images."""

    crops: tuple[tuple[Crop, ...], ...]
    """Crops of each cluster, most typical first; empty if the cluster does not occur."""
    shares: Float[np.ndarray, " clusters"]
    """Share of each cluster in the positions of all searched images."""
    skipped: tuple[Skipped, ...]
    """Images that could not be read."""


@dataclass(frozen=True)
class Match:
    """The name of a cluster according to labeled images, and how sure it is."""

    cluster: int
    name: str
    """The most frequent class of its labeled pixels; empty if it has none."""
    share: float
    """Share of this class in the cluster's labeled pixels."""
    pixels: int
    """Number of labeled pixels of the cluster."""

    @property
    def sure(self) -> bool:
        """Whether there are enough labeled pixels and most of them have the class."""
        return self.pixels >= SURE_PIXELS and self.share >= SURE_SHARE


def run_items(data: DataConfig) -> tuple[Item, ...]:
    """List the images of a run's data to search for crops.

    Raises:
        ConfigError: If the settings of the data are invalid.
        DataError: If the data no longer exist.
    """
    return tuple(spread_evenly(open_dataset(data).items, IMAGES))


def typical_crops(segmenter: Segmenter, items: Sequence[Item]) -> Generator[int, None, Typical]:
    """Find the most typical crops of every cluster: filled by it, and nearest to its centroid.

    Args:
        segmenter: Backbone and model.
        items: Images to search.

    Yields:
        The number of images searched so far.

    Returns:
        The most typical crops, and the images that could not be read.

    Raises:
        DataError: If no image can be read.
    """
    clusters = segmenter.model.num_regions
    crops: list[list[Crop]] = [[] for _ in range(clusters)]
    counts = np.zeros(clusters, np.int64)
    skipped = []
    for done, item in enumerate(items, 1):
        try:
            found, occurring = _crops_of(segmenter, load_image(item, decoding_of(segmenter.data)))
        except DataError as error:
            skipped.append(Skipped(item, str(error)))
        else:
            counts += occurring
            for cluster, crop in found.items():
                best = sorted([*crops[cluster], crop], key=lambda one: -one.score)
                crops[cluster] = best[:CROPS]
        yield done
    if len(skipped) == len(items):
        raise DataError(
            f"none of {len(items)} images can be read; give others with --images (the first: "
            f"{skipped[0].reason})"
        )
    return Typical(tuple(map(tuple, crops)), counts / counts.sum(), tuple(skipped))


def open_labeled(folder: Path) -> tuple[tuple[Item, ...], Classes]:
    """List the labeled images of a folder of sites, and the names of their classes.

    Raises:
        DataError: If the folder is not a folder of sites, or no image has a mask.
    """
    dataset: Dataset = open_sites(DataConfig(root=str(folder)))
    labeled = tuple(item for item in dataset.items if item.mask is not None)
    if not labeled:
        raise DataError(f"no image below {folder} has a mask; put them at SITE/masks/STEM.png")
    return labeled, dataset.classes or infer_classes(labeled)


def count_labels(
    segmenter: Segmenter, items: Sequence[Item], classes: Classes
) -> Iterator[Int[Tensor, "clusters classes"]]:
    """Count the labels of each cluster's pixels at the images' own size, image by image.

    Raises:
        DataError: If an image or mask cannot be read.
    """
    numbered = segmenter.numbered()
    for item in items:
        found = segment_images(
            numbered, [load_image(item, decoding_of(segmenter.data))], PredictOptions()
        )[0]
        labels = load_mask(item, classes).astype(np.int64)
        if classes.ignore_index is not None:
            labels[labels == classes.ignore_index] = len(classes.names)
        yield count_pixels(
            torch.from_numpy(found.regions),
            torch.from_numpy(np.minimum(labels, len(classes.names)).astype(np.uint8)),
            segmenter.model.num_regions,
            len(classes.names),
        )


def match_names(counts: Int[Tensor, "clusters classes"], classes: Classes) -> list[Match]:
    """Name every cluster after its most frequent class; several clusters can get one name.

    The evaluation differs: to compute a score, it matches every class with at most one cluster.
    Here each cluster gets the name that suits most of its pixels.
    """
    matches = []
    for cluster, row in enumerate(counts.tolist()):
        total, most = sum(row), max(row)
        name = classes.names[row.index(most)] if total else ""
        matches.append(Match(cluster, name, most / total if total else 0.0, total))
    return matches


def name_by_matches(matches: Sequence[Match], classes: Classes) -> list[NamedCluster]:
    """Give clusters the names of their matches, in the colors of the classes if there are any."""
    if classes.colors is not None:
        own = np.array(classes.colors, np.uint8)
    else:
        own = palette(len(classes.names))
    others = spread_colors(own, len(own) + len(matches))[len(own) :]
    colors = {name: to_color(own[index]) for index, name in enumerate(classes.names)}
    return [
        NamedCluster(match.cluster, match.name, colors.get(match.name, to_color(others[number])))
        for number, match in enumerate(matches)
    ]


@torch.inference_mode()
def _crops_of(
    segmenter: Segmenter, image: Pixels
) -> tuple[dict[int, Crop], Int[np.ndarray, " clusters"]]:
    """Find the most typical crop of each cluster in an image, and count its positions."""
    shape = (image.shape[0], image.shape[1])
    view = view_image(shape, segmenter.data, segmenter.backbone, PredictOptions())
    # As a single tile: for crops it does not matter that a very long image is cut off.
    height, width = view.tiling.tile
    stride = segmenter.backbone.stride
    seen = fit_image(image, view.size, "stretch", segmenter.data.interpolation)
    seen = seen[: height * stride, : width * stride]
    codes = encode_seen(segmenter, [seen])[0]
    nearest, cluster = cosines(segmenter.model, codes).max(dim=1)
    side = max(1, min(height, width) // WINDOW)
    pixels = segment(segmenter.model, codes, (height * stride, width * stride)).numpy()
    crops = {}
    for number in sorted(set(cluster.tolist())):
        own = torch.where(cluster == number, nearest, 0).reshape(1, 1, height, width)
        filled = avg_pool2d(own, side, stride=1)[0, 0]
        top, left = divmod(int(filled.argmax()), filled.shape[1])
        area = (
            slice(top * stride, (top + side) * stride),
            slice(left * stride, (left + side) * stride),
        )
        score = float(filled[top, left])
        crops[number] = Crop(seen[area].copy(), pixels[area] == number, score)
    return crops, np.bincount(cluster.numpy(), minlength=segmenter.model.num_regions)
