"""Baselines without training: what the frozen features give by themselves (method section 4)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fusseg.federation.client import Client
from fusseg.federation.clustering import kmeans
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.training import Model

POSITIONS_PER_IMAGE = 200
RESTARTS = 3


def features_anchor(
    clients: Sequence[Client],
    mean_feature: Float[Tensor, " dim"],
    num_clusters: int,
    generator: Generator,
) -> Model:
    """Cluster the pooled frozen features by spherical k-means; the head is the identity.

    Args:
        clients: Whose images are pooled.
        mean_feature: Subtracted from every feature; zeros where nothing is centered.
        num_clusters: Number of regions.
        generator: Random source of the sampled positions and the starts.
    """
    points = _sample(clients, mean_feature, generator)
    projection = torch.eye(points.shape[1])
    return Model(
        _linear_head(projection), kmeans(points, num_clusters, "cosine", generator, RESTARTS)
    )


def pca_anchor(
    clients: Sequence[Client],
    mean_feature: Float[Tensor, " dim"],
    num_clusters: int,
    code_dim: int,
    generator: Generator,
) -> Model:
    """Cluster the first principal components of the pooled features by spherical k-means.

    Args:
        clients: Whose images are pooled.
        mean_feature: Subtracted from every feature; zeros where nothing is centered.
        num_clusters: Number of regions.
        code_dim: Principal components kept, 70 in the method; all where there are fewer.
        generator: Random source of the sampled positions and the starts.
    """
    points = _sample(clients, mean_feature, generator)
    exact = points.double()
    # Eigenvalues come in ascending order.
    _, directions = torch.linalg.eigh(exact.T @ exact)
    projection = directions.flip(1)[:, :code_dim].T.float()
    codes = points @ projection.T
    return Model(
        _linear_head(projection), kmeans(codes, num_clusters, "cosine", generator, RESTARTS)
    )


def _sample(
    clients: Sequence[Client], mean_feature: Float[Tensor, " dim"], generator: Generator
) -> Float[Tensor, "points dim"]:
    sampled = []
    for client in clients:
        height, width, _ = client.features.map_shape
        shape = (len(client.features), POSITIONS_PER_IMAGE)
        positions = torch.randint(height * width, shape, generator=generator)
        images = torch.arange(len(client.features))
        sampled.append(client.features.gather(images, positions).flatten(0, 1) - mean_feature)
    return torch.cat(sampled)


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
