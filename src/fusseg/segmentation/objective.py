"""What an objective of local training consists of: one record of functions, one file each.

Everything else is the same for all objectives: optimizers, steps, FedProx and FedMOON, clients side
by side (`training.py`). A record of functions is used here, and for strategies, where the rest of
the package calls functions directly: an objective is chosen by its name in the configuration.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.head import HeadWeights

Numbers = dict[str, float]
"""Numbers without labels that all clients agree on before round 1, by name."""


@dataclass(frozen=True)
class Model:
    """What is trained: the head's weights and the centroids."""

    head: HeadWeights
    centroids: Float[Tensor, "clusters code"]


@dataclass(frozen=True)
class Draw:
    """What one step of one client looks at."""

    images: Int[Tensor, " images"]
    positions: Int[Tensor, "images positions"]
    """Of the feature maps; their centered features are what the loss gets."""
    tensors: Mapping[str, Tensor]
    """What else the loss needs, by name: of the same shapes in every step and at every client."""


@dataclass(frozen=True)
class Step:
    """What the loss of one step is computed from, for one client."""

    features: Float[Tensor, "images positions dim"]
    """Centered features of the positions drawn."""
    drawn: Mapping[str, Tensor]
    """The other tensors of the draw."""
    carried: Mapping[str, Tensor]
    """What stays with the client, as it is before this step; empty for most objectives."""


class Losses(NamedTuple):
    """What a step minimizes, and what FedProx and FedMOON need of it."""

    head: Float[Tensor, ""]
    centroids: Float[Tensor, ""]
    inputs: Float[Tensor, "images positions dim"]
    """What the head was given."""
    codes: Float[Tensor, "images positions code"]
    """What the head made of it."""


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains between two rounds: the `[local]` table with every number settled."""

    objective: "Objective"
    settings: Any
    """The objective's own settings, of its type `Objective.settings`."""
    steps: int | None
    epochs: float | None
    batch_size: int
    head_learning_rate: float
    centroid_learning_rate: float
    fedprox_weight: float
    fedmoon_weight: float
    fedmoon_temperature: float

    @property
    def regularizes(self) -> bool:
        """Whether FedProx or FedMOON holds the head near the one received."""
        return self.fedprox_weight > 0 or self.fedmoon_weight > 0


@dataclass(frozen=True)
class Carry:
    """What stays with a client between steps and rounds, such as the average of its weights."""

    begin: Callable[[Model, Mapping[str, Tensor], Any], dict[str, Tensor]]
    """The model a round starts from, what the client kept of its last round (empty in its first),
    and the settings to what the first step gets."""
    follow: Callable[[Mapping[str, Tensor], HeadWeights, Tensor, Any], dict[str, Tensor]]
    """What a step got, head and centroids after it, and the settings to what the next step gets."""


def keep_settings(settings: Any, _num_clusters: int) -> Any:  # noqa: ANN401 - an objective's own
    """Leave settings as they are: nothing in them depends on the number of clusters."""
    return settings


def prepare_nothing(_features: FeatureSet, _mean: Tensor, _settings: Any, _cache: Path) -> None:  # noqa: ANN401
    """Need nothing of all images."""


def no_numbers(_settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Say that there are none."""
    return {}


def no_estimate(
    _features: FeatureSet, _mean: Tensor, _local: LocalTraining, _generator: Generator
) -> Numbers:
    """Estimate nothing."""
    return {}


def average_numbers(numbers: Sequence[Numbers], counts: Sequence[int]) -> Numbers:
    """Average each number over the clients, by their images.

    Args:
        numbers: Of each client, of the same names.
        counts: Images that each client counts with.
    """
    total = sum(counts)
    averages = dict.fromkeys(numbers[0], 0.0)
    for client, count in zip(numbers, counts, strict=True):
        for name, number in client.items():
            averages[name] += count * number / total
    return averages


@dataclass(frozen=True)
class Objective:
    """What clients minimize, as functions of their features alone; none can read a label."""

    settings: type
    """Frozen dataclass of its own table in the configuration, `[local.NAME]`."""
    draw: Callable[[int, tuple[int, int, int], Any, LocalTraining, Generator], Iterator[Draw]]
    """Number of images, shape of a feature map, what was prepared, and a random source to the
    steps, without end."""
    loss: Callable[[HeadWeights, Tensor, Step, Numbers, Any, torch.dtype], Losses]
    """Head, centroids, step, agreed numbers, settings and precision of products to the losses."""
    prepare: Callable[[FeatureSet, Tensor, Any, Path], Any] = prepare_nothing
    """Features, mean feature, settings and cache folder to what its draws need of all images: made
    once per client and kept in the cache, such as nearest neighbors."""
    memory: Callable[[int, LocalTraining], int] | None = None
    """Channels of the features to the bytes that one client's step takes on a device; None:
    unknown, so that clients there train one after another."""
    settle: Callable[[Any, int], Any] = keep_settings
    """Settings as written, and the number of clusters, to settings without open choices."""
    given: Callable[[Any], Numbers] = no_numbers
    """Agreed numbers that the settings give."""
    estimated: Callable[[Any], dict[str, tuple[float, float]]] = no_numbers
    """Names of the numbers that clients estimate, each with the least and largest value it can
    have."""
    estimate: Callable[[FeatureSet, Tensor, LocalTraining, Generator], Numbers] = no_estimate
    """A client's own estimates, with its own mean feature in place of the federation's."""
    combine: Callable[[Sequence[Numbers], Sequence[int]], Numbers] = average_numbers
    """Estimates of all clients, and the images each counts with, to the agreed numbers."""
    carry: Carry | None = None
    """None: nothing stays with the client but, for FedMOON, its head."""
