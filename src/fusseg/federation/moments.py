"""Federated PCA: a head without training, from sums and second moments alone (section 3b)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize, pad

from fusseg.federation.checks import moments_of_features
from fusseg.federation.clustering import kmeans
from fusseg.federation.parts import Part
from fusseg.federation.points import feature_chunks, sample_positions
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.state import GlobalState
from fusseg.segmentation.head import HeadWeights, linear_head
from fusseg.segmentation.objective import Model

_START_POINTS = 4096
"""Number of random codes used to place the first centroids."""
_START_RESTARTS = 3
_SMALLEST_VARIANCE = 1e-6
"""Smallest variance that is whitened, as a share of the largest: products in float32 leave up to
about 1e-7 where features do not vary."""


@dataclass(frozen=True)
class FeatureMoments:
    """First and second moments of a set of features; clients' moments can be added up."""

    second: Float[Tensor, "dim dim"]
    """Sum of the outer products of the features with themselves, float64."""
    first: Float[Tensor, " dim"]
    """Sum of the features, float64."""
    count: Int[Tensor, ""]
    """Number of features."""


def sum_moments(features: Iterable[Float[Tensor, "_ dim"]], dim: int) -> FeatureMoments:
    """Sum the moments of features that come in chunks (the client's side)."""
    second = torch.zeros(dim, dim, dtype=torch.float64)
    first = torch.zeros(dim, dtype=torch.float64)
    count = 0
    for chunk in features:
        # Around the chunk's mean: with a large mean, float32 products would lose the variance.
        pilot = chunk.mean(dim=0)
        moved = chunk - pilot
        pilot, rest = pilot.double(), moved.sum(dim=0, dtype=torch.float64)
        cross = torch.outer(pilot, rest + len(chunk) / 2 * pilot)
        second += (moved.T @ moved).double() + cross + cross.T
        first += rest + len(chunk) * pilot
        count += len(chunk)
    return FeatureMoments(second, first, torch.tensor(count))


def principal_components(
    moments: FeatureMoments, num_components: int
) -> tuple[Float[Tensor, "components dim"], Float[Tensor, " components"], Float[Tensor, " dim"]]:
    """Find the directions of largest variance, as if all features were pooled.

    Args:
        moments: Moments of all features.
        num_components: Number of directions. Those beyond the number of feature channels are zero.

    Returns:
        Unit directions, largest variance first, each with a positive largest entry; the variance
        along each direction; the mean feature. All in float64.
    """
    mean = moments.first / moments.count
    covariance = moments.second / moments.count - torch.outer(mean, mean)
    # Symmetric up to rounding; eigenvalues come in ascending order.
    variances, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    directions = vectors.flip(1)[:, :num_components].T
    largest = directions.abs().argmax(dim=1, keepdim=True)
    # The sign of an eigenvector is arbitrary; fixing it makes the result independent of the solver.
    directions = directions * directions.gather(1, largest).sign()
    variances = variances.flip(0)[:num_components].clamp(min=0)
    missing = num_components - len(directions)
    return pad(directions, (0, 0, 0, missing)), pad(variances, (0, missing)), mean


def whiten(
    directions: Float[Tensor, "components dim"],
    variances: Float[Tensor, " components"],
    exponent: float,
) -> tuple[Float[Tensor, "components dim"], Float[Tensor, " components"]]:
    """Divide each component by its standard deviation to a power, as far as it varies.

    >>> directions, variances = whiten(torch.eye(2), torch.tensor([16.0, 4.0]), exponent=0.5)
    >>> directions.diagonal(), variances
    (tensor([0.5000, 0.7071]), tensor([4.0000, 2.0000]))

    Args:
        directions: Principal directions.
        variances: Variance along each, largest first.
        exponent: In [0, 1]; 0: everything stays as it is; 1: all variances become 1.

    Returns:
        The divided directions and the variances along them. Above 0, components whose variance is
        below a millionth of the largest are zero, because they would be mostly rounding.
    """
    if exponent == 0:
        return directions, variances
    counted = (variances > 0) & (variances >= _SMALLEST_VARIANCE * variances[0])
    factors = torch.where(counted, variances, torch.inf) ** (-exponent / 2)
    return directions * factors[:, None], variances * factors**2


def pca_head(
    directions: Float[Tensor, "components dim"], mean: Float[Tensor, " dim"], drawn: HeadWeights
) -> HeadWeights:
    """Make a head that projects centered features onto directions until it is trained.

    Args:
        directions: Principal directions, of any length.
        mean: Mean feature, subtracted first.
        drawn: Randomly drawn head; its hidden layer is used, so that training can continue.
    """
    return linear_head(directions, -(directions @ mean), drawn)


def starting_centroids(
    variances: Float[Tensor, " components"], num_clusters: int, generator: Generator
) -> Float[Tensor, "clusters components"]:
    """Place the first centroids by k-means on random codes with the measured variances.

    The codes are drawn from a normal distribution, so no client has to send any of its own.
    """
    noise = torch.randn(_START_POINTS, len(variances), dtype=torch.float64, generator=generator)
    drawn = normalize(noise * variances.sqrt(), dim=1)
    return kmeans(drawn, num_clusters, "cosine", generator, _START_RESTARTS).float()


def moment_parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the parts of the moments, which are summed."""
    dim = len(state.plan.mean_feature)
    check = moments_of_features(protocol.positions_per_image)
    return {
        "second": Part((dim, dim), torch.float64, "sum", check),
        "first": Part((dim,), torch.float64, "sum"),
        "count": Part((), torch.int64, "sum"),
    }


def measure_moments(work: Work) -> dict[str, Tensor]:
    """Sum the features of the sampled positions and their outer products."""
    features, mean_feature = work.client.features, work.state.plan.mean_feature
    protocol = work.protocol
    positions = sample_positions(features, protocol.positions_per_image, protocol.seed)
    found = sum_moments(feature_chunks(features, positions, mean_feature), len(mean_feature))
    return {"second": found.second, "first": found.first, "count": found.count}


def merge_moments(num_clusters: int, whitening: float, gathered: Gathered) -> Model:
    """Make the head from the principal components, and centroids for Lloyd to start from.

    Args:
        num_clusters: Number of centroids.
        whitening: Exponent, as in `whiten`.
        gathered: The moments of all clients.
    """
    start, totals = gathered.state.model, gathered.totals
    code_dim = start.centroids.shape[1]
    moments = FeatureMoments(totals["second"], totals["first"], totals["count"])
    directions, variances, mean = principal_components(moments, code_dim)
    directions, variances = whiten(directions, variances, whitening)
    head = pca_head(directions, mean, start.head)
    return Model(head, starting_centroids(variances, num_clusters, gathered.generator))


def moments_task(num_clusters: int, whitening: float = 0.0) -> Task:
    """Make the exchange of the moments of all features, which gives the starting model.

    Args:
        num_clusters: Number of centroids of that model.
        whitening: Exponent, as in `whiten`.
    """
    return Task(
        name="moments",
        parts=moment_parts,
        measure=measure_moments,
        merge=partial(merge_moments, num_clusters, whitening),
        receives=(),
        clusters=(None, num_clusters),
    )
