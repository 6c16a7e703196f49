"""The interface of an objective of local training: a record of functions, in a file of its own.

Everything else is shared by all objectives and lives in `training.py`: optimizers, steps, FedProx,
FedMOON, and training several clients side by side. Objectives and strategies are records of
functions because the configuration chooses them by name; the rest of the package calls functions
directly.
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
"""Label-free numbers that all clients agree on before round 1, by name."""


@dataclass(frozen=True)
class Model:
    """The trained parameters: the head's weights, the centroids, and the merged clusters."""

    head: HeadWeights
    centroids: Float[Tensor, "clusters code"]
    region_of: Int[Tensor, " clusters"] | None = None
    """Region of each cluster, from 0 without gaps; None: each cluster is a region of its own."""

    @property
    def num_regions(self) -> int:
        """Number of regions, K."""
        return count_regions(self.centroids, self.region_of)


def count_regions(
    centroids: Float[Tensor, "clusters code"], region_of: Int[Tensor, " clusters"] | None
) -> int:
    """Count the regions that clusters form; without a map, each cluster is one.

    >>> centroids = torch.zeros(3, 2)
    >>> count_regions(centroids, None), count_regions(centroids, torch.tensor([0, 1, 0]))
    (3, 2)
    """
    return len(centroids) if region_of is None else int(region_of.max()) + 1


def group_clusters(
    centroids: Float[Tensor, "clusters code"], region_of: Int[Tensor, " clusters"] | None
) -> tuple[Int[Tensor, " members"], ...]:
    """List the clusters of each region, ascending.

    >>> groups = group_clusters(torch.zeros(3, 2), torch.tensor([0, 1, 0]))
    >>> [clusters.tolist() for clusters in groups]
    [[0, 2], [1]]
    """
    regions = torch.arange(len(centroids)) if region_of is None else region_of
    num_regions = count_regions(centroids, region_of)
    return tuple((regions == region).nonzero().flatten() for region in range(num_regions))


def check_regions(region_of: Tensor, num_clusters: int) -> None:
    """Refuse a map that does not give each cluster a region, from 0 without gaps.

    Args:
        region_of: Region of each cluster.
        num_clusters: Number of clusters.

    Raises:
        ValueError: If the map has another length or type, there is only one region, or a number
            between 0 and the largest is missing.
    """
    if region_of.dtype != torch.int64 or region_of.shape != (num_clusters,):
        raise ValueError(
            f"regions of {num_clusters} clusters as {region_of.dtype} of shape "
            f"{tuple(region_of.shape)}; must be one int64 per cluster"
        )
    found = sorted(set(region_of.tolist()))
    if len(found) < 2 or found != list(range(len(found))):
        raise ValueError(f"regions numbered {found}; must be 0, 1 and so on without gaps")


@dataclass(frozen=True)
class Draw:
    """The images and positions that one client samples for one step."""

    images: Int[Tensor, " images"]
    positions: Int[Tensor, "images positions"]
    """Positions in the feature maps; the loss receives their centered features."""
    tensors: Mapping[str, Tensor]
    """Other inputs of the loss, by name; same shapes in every step and at every client."""


@dataclass(frozen=True)
class Step:
    """Inputs of the loss in one step of one client."""

    features: Float[Tensor, "images positions dim"]
    """Centered features of the drawn positions."""
    drawn: Mapping[str, Tensor]
    """The other tensors of the draw."""
    carried: Mapping[str, Tensor]
    """Tensors kept by the client, with their values before this step; usually empty."""


class Losses(NamedTuple):
    """Losses of a step, with the head's inputs and outputs for FedProx and FedMOON."""

    head: Float[Tensor, ""]
    centroids: Float[Tensor, ""]
    inputs: Float[Tensor, "images positions dim"]
    """Input of the head."""
    codes: Float[Tensor, "images positions code"]
    """Output of the head."""


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains between two rounds: the `[local]` table with every value resolved."""

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
        """Whether FedProx or FedMOON keeps the head close to the received one."""
        return self.fedprox_weight > 0 or self.fedmoon_weight > 0


@dataclass(frozen=True)
class Carry:
    """Tensors a client keeps between steps and rounds, such as an average of its weights."""

    begin: Callable[[Model, Mapping[str, Tensor], Any], dict[str, Tensor]]
    """Makes the tensors for the first step of a round. Arguments: the model the round starts from,
    the tensors kept from the client's last round (empty in its first), and the settings."""
    follow: Callable[[Mapping[str, Tensor], HeadWeights, Tensor, Any], dict[str, Tensor]]
    """Makes the tensors for the next step. Arguments: the tensors of this step, the head and the
    centroids after it, and the settings."""


def keep_settings(settings: Any, _num_clusters: int) -> Any:  # noqa: ANN401 - an objective's own
    """Return the settings unchanged: none depends on the number of clusters."""
    return settings


def prepare_nothing(_features: FeatureSet, _mean: Tensor, _settings: Any, _cache: Path) -> None:  # noqa: ANN401
    """Prepare nothing."""


def no_numbers(_settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return no numbers."""
    return {}


def no_estimate(
    _features: FeatureSet, _mean: Tensor, _local: LocalTraining, _generator: Generator
) -> Numbers:
    """Estimate nothing."""
    return {}


def average_numbers(numbers: Sequence[Numbers], counts: Sequence[int]) -> Numbers:
    """Average each number over the clients, weighted by their images.

    >>> average_numbers([{"shift": 0.1}, {"shift": 0.4}], counts=[2, 1])
    {'shift': 0.2}

    Args:
        numbers: Numbers of each client, all with the same names.
        counts: Number of images each client is weighted by.
    """
    total = sum(counts)
    averages = dict.fromkeys(numbers[0], 0.0)
    for client, count in zip(numbers, counts, strict=True):
        for name, number in client.items():
            averages[name] += count * number / total
    return averages


def wants_nothing(_settings: Any) -> bool:  # noqa: ANN401
    """Tell that no number depends on the start."""
    return False


EstimateAtStart = Callable[[FeatureSet, Tensor, Model, LocalTraining, Generator], Numbers]
"""Arguments: features, mean feature, the start, the local training, and a random source."""


@dataclass(frozen=True)
class Objective:
    """What clients minimize, as functions of their features alone; none can read a label."""

    settings: type
    """Frozen dataclass of the objective's configuration table, `[local.NAME]`."""
    draw: Callable[[int, tuple[int, int, int], Any, LocalTraining, Generator], Iterator[Draw]]
    """Draws steps without end. Arguments: number of images, shape of a feature map, the result of
    `prepare`, the local training, and a random source."""
    loss: Callable[[HeadWeights, Tensor, Step, Numbers, Any, torch.dtype], Losses]
    """Computes the losses of a step. Arguments: head, centroids, step, agreed numbers, settings,
    and precision of the matrix products."""
    prepare: Callable[[FeatureSet, Tensor, Any, Path], Any] = prepare_nothing
    """Computes once per client what its draws need from all images, such as nearest neighbors.
    Arguments: features, mean feature, settings, and the folder to cache the result in."""
    prepare_image: Callable[[Any, int], object] | None = None
    """Computes what the draws need of one image and caches it. It is called for every image before
    round 1, around the client's own mean feature; draws have to do without that, too. Arguments:
    the result of `prepare`, and the image. None: nothing."""
    trains_head: bool = True
    """Whether steps change the head. If not, it stays as it was received and no client sends it,
    and the head's loss is 0."""
    memory: Callable[[int, LocalTraining], int] | None = None
    """Estimates the bytes of one client's step on a device from the number of feature channels.
    None: unknown; clients then train one after another."""
    settle: Callable[[Any, int], Any] = keep_settings
    """Resolves the settings from the written ones and the number of clusters."""
    given: Callable[[Any], Numbers] = no_numbers
    """Agreed numbers that the settings specify."""
    estimated: Callable[[Any], dict[str, tuple[float, float]]] = no_numbers
    """Names of the numbers that clients estimate, each with its smallest and largest possible
    value."""
    estimate: Callable[[FeatureSet, Tensor, LocalTraining, Generator], Numbers] = no_estimate
    """Computes a client's own estimates, using its own mean feature instead of the federation's."""
    estimate_at_start: EstimateAtStart | None = None
    """Computes a client's estimates again once the start is computed, from its regions too; the
    clients' averages replace the numbers of before. None: they stay. It is asked for only where
    `wants_start` says so."""
    wants_start: Callable[[Any], bool] = wants_nothing
    """Tells from the settings whether the estimates depend on the start."""
    combine: Callable[[Sequence[Numbers], Sequence[int]], Numbers] = average_numbers
    """Combines the clients' estimates, given the images each is weighted by."""
    carry: Carry | None = None
    """None: a client keeps nothing between rounds except, for FedMOON, its head."""
