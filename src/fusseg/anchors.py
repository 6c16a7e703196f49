"""Baselines without training: what the frozen features give by themselves (method section 4)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize, one_hot

from fusseg.federation.client import Client
from fusseg.federation.clustering import kmeans
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.training import Model

POSITIONS_PER_IMAGE = 200
RESTARTS = 3
START_POINTS = 4096
"""Points among which each start of the clustering is found before all of them decide."""
MAX_ITERATIONS = 300


def features_anchor(
    points: Float[Tensor, "points dim"], num_clusters: int, generator: Generator
) -> Model:
    """Cluster the pooled frozen features by spherical k-means; the head is the identity.

    Args:
        points: Pooled features, from `sample_features`.
        num_clusters: Number of regions.
        generator: Random source of the starts.
    """
    projection = torch.eye(points.shape[1])
    return Model(_linear_head(projection), spherical_kmeans(points, num_clusters, generator))


def pca_anchor(
    points: Float[Tensor, "points dim"], num_clusters: int, code_dim: int, generator: Generator
) -> Model:
    """Cluster the first principal components of the pooled features by spherical k-means.

    Args:
        points: Pooled features, from `sample_features`.
        num_clusters: Number of regions.
        code_dim: Principal components kept, 70 in the method; all where there are fewer.
        generator: Random source of the starts.
    """
    exact = points.double()
    # Eigenvalues come in ascending order.
    _, directions = torch.linalg.eigh(exact.T @ exact)
    projection = directions.flip(1)[:, :code_dim].T.float()
    codes = points @ projection.T
    return Model(_linear_head(projection), spherical_kmeans(codes, num_clusters, generator))


def sample_features(
    clients: Sequence[Client], mean_feature: Float[Tensor, " dim"], generator: Generator
) -> Float[Tensor, "points dim"]:
    """Draw the same number of positions from every image of every client.

    Args:
        clients: Whose images are pooled.
        mean_feature: Subtracted from every feature; zeros where nothing is centered.
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
    """Cluster many points by cosine: the best of several starts, run to convergence on all.

    A start is the k-means of a random subset: as good as one of all points, at a share of the
    cost. Products are in float32, which decides every assignment but ties of rounding.

    Args:
        points: What to cluster.
        num_clusters: Rows of the result.
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
        # A cluster that lost all its points keeps its center, as in federated Lloyd.
        centers = torch.where(sums.any(dim=1, keepdim=True), normalize(sums, dim=1), centers)
    return centers


def _linear_head(projection: Float[Tensor, "code dim"]) -> HeadWeights:
    """A head whose second layer is silent: a linear projection."""
    code_dim, feature_dim = projection.shape
    return {
        "linear.weight": projection.clone(),
        "linear.bias": torch.zeros(code_dim),
        "hidden.weight": torch.zeros(feature_dim, feature_dim),
        "hidden.bias": torch.zeros(feature_dim),
        "output.weight": torch.zeros(code_dim, feature_dim),
        "output.bias": torch.zeros(code_dim),
    }
