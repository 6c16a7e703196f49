"""Federated PCA: the head without training, from sums and second moments alone (section 3b)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.errors import FederationError
from fusseg.federation.clustering import kmeans
from fusseg.segmentation.head import HeadWeights, SegmentationHead

_START_POINTS = 4096
"""Codes drawn to place the first centroids."""
_START_RESTARTS = 3


@dataclass(frozen=True)
class FeatureMoments:
    """First and second moments of a set of features; those of clients add up."""

    second: Float[Tensor, "dim dim"]
    """Sum of the outer products of the features with themselves, float64."""
    first: Float[Tensor, " dim"]
    """Sum of the features, float64."""
    count: Int[Tensor, ""]
    """Number of features."""


def sum_moments(features: Iterable[Float[Tensor, "_ dim"]], dim: int) -> FeatureMoments:
    """Sum the moments of features that come in chunks (the client's half)."""
    second = torch.zeros(dim, dim, dtype=torch.float64)
    first = torch.zeros(dim, dtype=torch.float64)
    count = 0
    for chunk in features:
        # The product of a chunk in float32, the sum of chunks in float64: the rounding stays far
        # below the eigenvalues that are kept.
        second += (chunk.T @ chunk).double()
        first += chunk.sum(dim=0, dtype=torch.float64)
        count += len(chunk)
    return FeatureMoments(second, first, torch.tensor(count))


def principal_components(
    moments: FeatureMoments, num_components: int
) -> tuple[Float[Tensor, "components dim"], Float[Tensor, " components"], Float[Tensor, " dim"]]:
    """Find the directions of largest variance, as pooling all features would.

    Args:
        moments: Of all features.
        num_components: How many, at most the features' channels.

    Returns:
        Unit directions, largest variance first, with a positive largest entry each; the variance
        along each; the mean feature. All float64.

    Raises:
        FederationError: If more components are asked for than there are channels.
    """
    dim = len(moments.first)
    if num_components > dim:
        raise FederationError(
            f"features of {dim} channels have at most {dim} principal components, "
            f"got model.code_dim = {num_components}; lower it"
        )
    mean = moments.first / moments.count
    covariance = moments.second / moments.count - torch.outer(mean, mean)
    # Symmetric up to rounding; eigenvalues come in ascending order.
    variances, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    directions = vectors.flip(1)[:, :num_components].T
    largest = directions.abs().argmax(dim=1, keepdim=True)
    # The sign of an eigenvector is arbitrary: fixed, so that no solver decides it.
    directions = directions * directions.gather(1, largest).sign()
    return directions, variances.flip(0)[:num_components].clamp(min=0), mean


def pca_head(
    directions: Float[Tensor, "components dim"], mean: Float[Tensor, " dim"]
) -> HeadWeights:
    """Make a head that projects centered features on directions; its nonlinear half is zero."""
    code_dim, dim = directions.shape
    weights = {
        name: torch.zeros_like(weight)
        for name, weight in SegmentationHead(dim, code_dim).state_dict().items()
    }
    weights["linear.weight"] = directions.float().contiguous()
    weights["linear.bias"] = -(directions @ mean).float()
    return weights


def starting_centroids(
    variances: Float[Tensor, " components"], num_clusters: int, generator: Generator
) -> Float[Tensor, "clusters components"]:
    """Place centroids before any code was seen: k-means on codes drawn as the moments have them.

    The codes come from the normal distribution with the variances found, so that no client has to
    send one of its own.
    """
    noise = torch.randn(_START_POINTS, len(variances), dtype=torch.float64, generator=generator)
    drawn = normalize(noise * variances.sqrt(), dim=1)
    return kmeans(drawn, num_clusters, "cosine", generator, _START_RESTARTS).float()
