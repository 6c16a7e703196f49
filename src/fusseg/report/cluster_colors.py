"""Colors and names of clusters and classes on the pages of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fusseg.core.colors import palette, spread_colors
from fusseg.data.items import Classes
from fusseg.evaluation.scores import UNMATCHED
from fusseg.runs.regions import Color, NamedCluster, Regions, join_clusters, load_regions

Colors = UInt8[np.ndarray, "_ 3"]


@dataclass(frozen=True)
class Coloring:
    """Colors of regions and labels; a region and its class have the same color."""

    clusters: Colors
    classes: Colors
    legend: dict[str, Color]
    """Color of each name in use."""


def choose_coloring(
    classes: Classes | None,
    matching: Sequence[int] | None,
    num_clusters: int,
    regions: Regions | None = None,
) -> Coloring:
    """Color clusters as in the user's `regions.toml`, or else like their matched classes.

    Args:
        classes: Classes of the labels; None if there are no labels.
        matching: Class of each cluster, or `UNMATCHED`; None if nothing is scored.
        num_clusters: Number of clusters, K.
        regions: Names and colors from `regions.toml`; a class with the name of a region gets the
            region's color.
    """
    of_classes = class_colors(classes)
    if regions is None:
        clusters = cluster_colors(of_classes, matching, num_clusters)
        legend = {
            f"region {cluster}": to_color(color)
            for cluster, color in enumerate(clusters.tolist())
            if matching is None or matching[cluster] == UNMATCHED
        }
    else:
        legend = dict(regions.legend)
        clusters = cluster_colors_of(regions)
        if classes is not None and classes.colors is None:
            # The palettes of classes and clusters start alike, which would suggest false matches.
            spread = spread_colors(clusters, num_clusters + len(classes.names))
            of_classes = spread[num_clusters:].copy()
        for index, name in enumerate(() if classes is None else classes.names):
            of_classes[index] = legend.get(name, of_classes[index])
    if matching is not None and classes is not None:
        named = zip(classes.names, of_classes.tolist(), strict=True)
        legend = {name: to_color(color) for name, color in named} | legend
    return Coloring(clusters, of_classes, legend)


def name_regions(run_dir: Path, num_clusters: int, site: str | None = None) -> Regions:
    """Load a run's names and colors, or use numbers and a palette if none were given.

    Args:
        run_dir: Run directory.
        num_clusters: Number of clusters, K.
        site: Site that the model belongs to; None: the global model.

    Raises:
        ConfigError: If regions.toml is invalid.
    """
    found = load_regions(run_dir, num_clusters, site)
    return numbered_regions(num_clusters) if found is None else found


def numbered_regions(num_clusters: int) -> Regions:
    """Make one region per cluster, named by its number, with a color of its own.

    >>> numbered_regions(2).names
    ('cluster 0', 'cluster 1')
    """
    return join_clusters(unnamed_clusters(num_clusters))


def unnamed_clusters(num_clusters: int) -> list[NamedCluster]:
    """Give every cluster a color, but no name."""
    colors = palette(num_clusters).tolist()
    return [NamedCluster(cluster, "", to_color(color)) for cluster, color in enumerate(colors)]


def cluster_colors_of(regions: Regions) -> Colors:
    """Return the color of each cluster's region."""
    return np.array([regions.legend[name] for name in regions.names], np.uint8)


def class_colors(classes: Classes | None) -> Colors:
    """Choose a color per class: from classes.toml, or from a palette."""
    if classes is None:
        return np.zeros((0, 3), np.uint8)
    if classes.colors is not None:
        return np.array(classes.colors, np.uint8)
    return palette(len(classes.names))


def cluster_colors(of_classes: Colors, matching: Sequence[int] | None, num_clusters: int) -> Colors:
    """Give each cluster the color of its class, and unmatched ones colors of their own."""
    if matching is None:
        return palette(num_clusters)
    unmatched = [cluster for cluster, label in enumerate(matching) if label == UNMATCHED]
    extended = spread_colors(of_classes, len(of_classes) + len(unmatched))
    chosen = extended[[max(label, 0) for label in matching]]
    chosen[unmatched] = extended[len(of_classes) : len(of_classes) + len(unmatched)]
    return chosen


def to_color(values: Sequence[int] | UInt8[np.ndarray, "3"]) -> Color:
    """Convert a row of an array or list to a color."""
    red, green, blue = (int(value) for value in values)
    return red, green, blue
