"""How different the clients of a partition are: in size, in classes, and in features."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Int64

from fusseg.config.schema import Config
from fusseg.core.errors import DataError
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions import training_images
from fusseg.data.partitions.dominant import count_labels, known_classes
from fusseg.data.tables import dump_table, read_table
from fusseg.features.extraction import wait_for
from fusseg.features.feature_set import FeatureSet
from fusseg.runs.prepare import prepare


@dataclass(frozen=True)
class Distances:
    """Measured differences between the clients of one column."""

    num_clients: int
    sizes: float
    """Images of the largest client for each of the smallest."""
    classes: float | None
    """Mean distance of two clients' classes, in [0, 1]; None without masks."""
    features: float
    """Mean distance of two clients' mean features, in standard deviations of all features."""


def measure_distances(config: Config, cache: Path) -> Distances:
    """Measure how different the clients are.

    Args:
        config: A run's settings; only its data and its backbone matter.
        cache: Folder of the feature cache.

    Raises:
        FussegError: If the data cannot be read.
    """
    prepared = wait_for(prepare(config, cache))
    sizes = [len(client.features) for client in prepared.clients]
    return Distances(
        num_clients=len(sizes),
        sizes=max(sizes) / min(sizes),
        classes=_distance_of_classes(config),
        features=distance_of_features([client.features for client in prepared.clients]),
    )


def dump_distances(distances: Mapping[str, Distances]) -> str:
    """Format one line per column of a grid; a distance that does not exist is empty."""
    rows = [(name, *astuple(found)) for name, found in distances.items()]
    return dump_table(("column", *(one.name for one in fields(Distances))), rows)


def read_distances(path: Path) -> dict[str, Distances]:
    """Read what `dump_distances` has written; empty if there is no file.

    Raises:
        DataError: If the file is damaged.
    """
    if not path.exists():
        return {}
    names = ("column", *(one.name for one in fields(Distances)))
    found = {}
    for row in read_table(path, "distances", names):
        cells = row.cells
        try:
            found[cells["column"]] = Distances(
                int(cells["num_clients"]),
                float(cells["sizes"]),
                float(cells["classes"]) if cells["classes"] else None,
                float(cells["features"]),
            )
        except ValueError as error:
            raise DataError(
                f"line {row.line} has a distance that is no number ({error}); delete the file, and "
                f"it is measured again: {path}"
            ) from error
    return found


def _distance_of_classes(config: Config) -> float | None:
    dataset = open_dataset(config.data)
    items = training_images(dataset, config.data, config.local.batch_size)
    classes = known_classes(items, dataset)
    if classes is None:
        return None
    counts: dict[str, list[Int64[np.ndarray, " classes"]]] = defaultdict(list)
    for item, labels in zip(items, count_labels(items, classes), strict=True):
        counts[item.client].append(labels)
    return distance_of_classes([np.sum(labels, axis=0) for labels in counts.values()])


def distance_of_classes(counts: list[Int64[np.ndarray, " classes"]]) -> float | None:
    """Compute the mean total variation distance of two clients' shares of labeled pixels.

    >>> distance_of_classes([np.array([30, 10]), np.array([0, 7])])
    0.75

    Args:
        counts: Labeled pixels by class, for each client.

    Returns:
        0 if all have the same shares, 1 if no two have a class in common; None if fewer than two
        have labels.
    """
    shares = [labels / labels.sum() for labels in counts if labels.sum() > 0]
    if len(shares) < 2:
        return None
    return fmean(float(abs(one - other).sum()) / 2 for one, other in combinations(shares, 2))


def distance_of_features(clients: list[FeatureSet]) -> float:
    """Compute the mean distance of two clients' mean features, in standard deviations.

    The unit is the root of the mean squared distance of a feature from the mean of all features.
    """
    counts = [features.feature_count for features in clients]
    means = [
        features.feature_sum() / count for features, count in zip(clients, counts, strict=True)
    ]
    total = sum(counts)
    center = sum(
        (mean * (count / total) for mean, count in zip(means, counts, strict=True)),
        torch.zeros_like(means[0]),
    )
    variance = sum(
        count / total * (features.feature_spread() ** 2 + float((mean - center).square().sum()))
        for features, mean, count in zip(clients, means, counts, strict=True)
    )
    if len(clients) < 2 or variance == 0:
        return 0.0
    lengths = [float((one - other).norm()) for one, other in combinations(means, 2)]
    return fmean(lengths) / math.sqrt(variance)
