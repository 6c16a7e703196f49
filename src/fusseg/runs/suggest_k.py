"""Suggesting a number of regions: frozen features are clustered for several K, without labels."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from jaxtyping import Float, Int
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.randomness import SERVER, round_generator
from fusseg.data.findings import Finding
from fusseg.evaluation.agreement import adjusted_rand, count_pairs
from fusseg.evaluation.cluster_number import Judged
from fusseg.features.extraction import Progress
from fusseg.features.feature_set import FeatureSet, pool_features
from fusseg.federation.baselines import spherical_kmeans
from fusseg.federation.points import feature_chunks, sample_positions
from fusseg.runs.prepare import prepare

CANDIDATES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 24, 28, 34, 40)
"""Numbers of regions that are tried: every small number, and larger ones in steps."""
MOST_POINTS = 30_000
"""Largest number of positions of all images together, spread evenly over the images."""
MOST_PER_IMAGE = 200
SPLITS = 5
"""Number of times that the images are divided into two parts for clustering and a held-back one."""
_HELD_BACK = 0.2
_SILHOUETTE_POINTS = 2000
_FEWEST_IMAGES = 5


@dataclass(frozen=True)
class Sampled:
    """Positions of all training images, as principal components."""

    points: Float[Tensor, "images positions code"]
    """Principal components of each position, scaled to unit length."""
    num_sites: int
    """Number of sites."""
    explained: float
    """Share of the variance that the components keep, in [0, 1]."""


def sample_training(config: Config, cache: Path) -> Generator[Progress | Finding, None, Sampled]:
    """Extract features of the training images and sample positions; labels are not read.

    Args:
        config: Settings of data and backbone; `model.code_dim` is the number of components.
        cache: Folder of the feature cache.

    Yields:
        Findings about the images, and progress of the extraction.

    Raises:
        FussegError: If the configuration or the data cannot be used.
    """
    prepared = yield from prepare(config, cache)
    features = pool_features([client.features for client in prepared.clients])
    if len(features) < _FEWEST_IMAGES:
        raise DataError(
            f"{len(features)} training images are too few to judge a number of regions; at least "
            f"{_FEWEST_IMAGES} are needed; add images"
        )
    mean = (features.feature_sum() / features.feature_count).float()
    mean_feature = mean if prepared.center else torch.zeros_like(mean)
    points, explained = _components(_sample(features, mean_feature, config.seed), config)
    return Sampled(points, len(prepared.clients), explained)


def judge_candidates(sampled: Sampled, candidates: Sequence[int], seed: int) -> Iterator[Judged]:
    """Judge each number of regions, smallest first.

    Raises:
        ConfigError: If a number is below 2, or above 255 or the number of positions in a half.
    """
    images, positions, _ = sampled.points.shape
    most = positions * _num_learning(images)
    for num_clusters in sorted(set(candidates)):
        if not 2 <= num_clusters <= min(255, most):
            raise ConfigError(
                f"the numbers of regions to try must be from 2 to {min(255, most)} here, got "
                f"{num_clusters}"
            )
    for num_clusters in sorted(set(candidates)):
        yield _judge(sampled.points, num_clusters, seed)


def _judge(points: Float[Tensor, "images positions code"], num_clusters: int, seed: int) -> Judged:
    agreements, silhouettes, cosines = [], [], []
    for split in range(SPLITS):
        generator = round_generator(seed, split, f"{SERVER}suggest")
        first, second, held_back = _deal(points, generator)
        centers = [spherical_kmeans(half, num_clusters, generator) for half in (first, second)]
        found = [held_back @ half.T for half in centers]
        labels = [cosine.argmax(dim=1) for cosine in found]
        counts = count_pairs(labels[0], labels[1], num_clusters, num_clusters)
        agreements.append(adjusted_rand(counts))
        silhouettes.append(_silhouette(held_back, labels[0]))
        cosines.append(float(found[0].amax(dim=1).double().mean()))
    return Judged(
        num_clusters=num_clusters,
        stability=fmean(agreements),
        spread=stdev(agreements),
        silhouette=fmean(silhouettes),
        mean_cosine=fmean(cosines),
    )


def _deal(
    points: Float[Tensor, "images positions code"], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Divide images into two parts for clustering and one that is held back, each a list of codes.

    Whole images are divided, because positions of one image are too similar to test each other.
    """
    learning = _num_learning(len(points))
    order = torch.randperm(len(points), generator=generator)
    parts = order[:learning], order[learning : 2 * learning], order[2 * learning :]
    first, second, held_back = (points[part].flatten(0, 1) for part in parts)
    return first, second, held_back


def _num_learning(images: int) -> int:
    """Return the number of images in each of the two parts for clustering."""
    return (images - max(1, round(_HELD_BACK * images))) // 2


def _silhouette(held_back: Float[Tensor, "points code"], labels: Int[Tensor, " points"]) -> float:
    """Compute the mean silhouette of some held-back positions, spread evenly.

    It is 0 if all of them are in one region, or each in its own, because it is not defined then.
    """
    step = max(1, len(held_back) // _SILHOUETTE_POINTS)
    points, shown = held_back[::step], labels[::step]
    if not 2 <= int((torch.bincount(shown) > 0).sum()) < len(shown):
        return 0.0
    return float(silhouette_score(points.numpy(), shown.numpy(), metric="cosine"))


def _sample(
    features: FeatureSet, mean_feature: Float[Tensor, " dim"], seed: int
) -> Float[Tensor, "images positions dim"]:
    height, width, dim = features.map_shape
    most = max(2, min(MOST_PER_IMAGE, MOST_POINTS // len(features), height * width))
    positions = sample_positions(features, most, seed)
    chunks = list(feature_chunks(features, positions, mean_feature))
    return torch.cat(chunks).reshape(len(features), -1, dim)


def _components(
    sampled: Float[Tensor, "images positions dim"], config: Config
) -> tuple[Float[Tensor, "images positions code"], float]:
    """Keep the first principal components, as many as a code has channels."""
    exact = sampled.flatten(0, 1).double()
    values, directions = torch.linalg.eigh(exact.T @ exact)
    kept = directions.flip(1)[:, : config.model.code_dim].float()
    explained = float(values.flip(0)[: config.model.code_dim].sum() / values.sum())
    return normalize(sampled @ kept, dim=2), explained
