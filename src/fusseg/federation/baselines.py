"""Baselines without training: clusters of the frozen features alone (method section 4)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize, one_hot

from fusseg.federation.clustering import kmeans
from fusseg.federation.moments import pca_head, principal_components, sum_moments
from fusseg.federation.state import Client
from fusseg.segmentation.head import initial_head, linear_head
from fusseg.segmentation.objective import Model

POSITIONS_PER_IMAGE = 200
RESTARTS = 3
START_POINTS = 4096
"""Size of the random subset that each start of the clustering is computed on."""
MAX_ITERATIONS = 300


def features_anchor(
    points: Float[Tensor, "points dim"], num_clusters: int, generator: Generator
) -> Model:
    """Cluster the pooled frozen features by spherical k-means; the head is the identity.

    Args:
        points: Pooled features from `sample_features`.
        num_clusters: Number of regions.
        generator: Random source of the starts.
    """
    dim = points.shape[1]
    centroids = spherical_kmeans(points, num_clusters, generator)
    drawn = initial_head(dim, dim, generator)
    return Model(linear_head(torch.eye(dim), torch.zeros(dim), drawn), centroids)


def pca_anchor(
    points: Float[Tensor, "points dim"], num_clusters: int, code_dim: int, generator: Generator
) -> Model:
    """Cluster the first principal components of the pooled features by spherical k-means.

    The components are those of federated PCA, around the mean of the points.

    Args:
        points: Pooled features from `sample_features`.
        num_clusters: Number of regions.
        code_dim: Number of principal components, 70 in the method; all if there are fewer.
        generator: Random source of the starts.
    """
    dim = points.shape[1]
    moments = sum_moments(torch.split(points, START_POINTS), dim)
    directions, _, mean = principal_components(moments, min(code_dim, dim))
    codes = (points - mean.float()) @ directions.T.float()
    centroids = spherical_kmeans(codes, num_clusters, generator)
    drawn = initial_head(dim, len(directions), generator)
    return Model(pca_head(directions, mean, drawn), centroids)


def sample_features(
    clients: Sequence[Client], mean_feature: Float[Tensor, " dim"], generator: Generator
) -> Float[Tensor, "points dim"]:
    """Draw the same number of positions from every image of every client.

    Args:
        clients: Their images are pooled.
        mean_feature: Subtracted from every feature; zeros if features are not centered.
        generator: Random source of the positions.
    """
    sampled = []
    for client in clients:
        height, width, _ = client.features.map_shape
        shape = (len(client.features), POSITIONS_PER_IMAGE)
        positions = torch.randint(height * width, shape, generator=generator)
        images = torch.arange(len(client.features))
        sampled.append(client.features.gather(images, positions).flatten(0, 1) - mean_feature)
    return torch.cat(sampled)


def spherical_kmeans(
    points: Float[Tensor, "points dim"], num_clusters: int, generator: Generator
) -> Float[Tensor, "clusters dim"]:
    """Cluster many points by cosine: take the best of several starts, then converge on all points.

    Each start is the k-means of a random subset, which is as good as one of all points at a
    fraction of the cost. Products are in float32; only ties within rounding could differ.

    Args:
        points: Points to cluster.
        num_clusters: Number of centers.
        generator: Random source of the subsets and their starts.

    Returns:
        Unit centers.

    Raises:
        FederationError: If there are fewer points than clusters.
    """
    units = normalize(points, dim=1)
    best, largest = units[:0], -torch.inf
    for _ in range(RESTARTS):
        subset = torch.randperm(len(units), generator=generator)[:START_POINTS]
        start = kmeans(units[subset], num_clusters, "cosine", generator, restarts=1)
        mean_cosine = float((units @ start.T).amax(dim=1).double().mean())
        if mean_cosine > largest:
            best, largest = start, mean_cosine
    return _converge(units, best)


def _converge(
    units: Float[Tensor, "points dim"], centers: Float[Tensor, "clusters dim"]
) -> Float[Tensor, "clusters dim"]:
    assignment = torch.full((len(units),), -1)
    for _ in range(MAX_ITERATIONS):
        nearest = (units @ centers.T).argmax(dim=1)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        sums = one_hot(assignment, len(centers)).to(units.dtype).T @ units
        # A cluster that lost all of its points keeps its center, as in federated Lloyd.
        centers = torch.where(sums.any(dim=1, keepdim=True), normalize(sums, dim=1), centers)
    return centers
