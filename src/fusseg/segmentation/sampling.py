"""What one training step looks at: images, positions and partners (method section 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.config import LocalConfig
from fusseg.features.feature_set import FeatureSet


@dataclass(frozen=True)
class Batch:
    """Sampled features of the query images and of their neighbors, and who meets whom."""

    queries: Float[Tensor, "images positions dim"]
    neighbors: Float[Tensor, "images positions dim"]
    """Image i is the neighbor of query i."""
    partners: Int[Tensor, "supports images"]
    """Row by row a permutation of the queries without fixed point: the random supports."""


@dataclass(frozen=True)
class Pairings:
    """Correspondences of the three kinds of pairs; every query takes part in each."""

    with_self: Float[Tensor, "images positions positions"]
    with_neighbor: Float[Tensor, "images positions positions"]
    with_random: tuple[Float[Tensor, "images positions positions"], ...]
    """One per random support."""


def query_batches(
    num_images: int, batch_size: int, generator: Generator
) -> Iterator[Int[Tensor, " batch"]]:
    """Draw batches of query images without end.

    Images come in shuffled epochs, of which an incomplete last batch is left out, so that no image
    meets itself; a client with fewer images than a batch draws with replacement.
    """
    while True:
        if num_images < batch_size:
            yield torch.randint(num_images, (batch_size,), generator=generator)
        else:
            order = torch.randperm(num_images, generator=generator)
            yield from order[: num_images // batch_size * batch_size].reshape(-1, batch_size)


def derangement(size: int, generator: Generator) -> Int[Tensor, " size"]:
    """Draw a permutation without fixed point, each equally likely.

    Args:
        size: Number of elements, at least 2.
        generator: Random source.
    """
    identity = torch.arange(size)
    while True:
        # About one permutation in e has no fixed point, so that this ends after few draws.
        order = torch.randperm(size, generator=generator)
        if not bool((order == identity).any()):
            return order


def draw_batch(
    features: FeatureSet,
    nearest: Int[Tensor, "images neighbors"],
    queries: Int[Tensor, " batch"],
    mean_feature: Float[Tensor, " dim"],
    local: LocalConfig,
    generator: Generator,
) -> Batch:
    """Read what one step needs: 121 random positions per query and per neighbor image.

    Unlike STEGO, which samples maps bilinearly at continuous coordinates and anew for each pairing,
    positions are integers drawn once per step, so that only these pass through the head.

    Args:
        features: The client's images.
        nearest: Nearest images of each image; a query's neighbor is drawn from its row.
        queries: Query images.
        mean_feature: Subtracted from every feature; zeros where nothing is centered.
        local: Numbers of positions and supports.
        generator: Random source.
    """
    num_queries, num_positions = len(queries), features.map_shape[0] * features.map_shape[1]
    choice = torch.randint(nearest.shape[1], (num_queries,), generator=generator)
    images = torch.cat([queries, nearest[queries, choice]])
    positions = torch.randint(num_positions, (len(images), local.positions), generator=generator)
    partners = [derangement(num_queries, generator) for _ in range(local.random_supports)]
    sampled = features.gather(images, positions) - mean_feature
    return Batch(sampled[:num_queries], sampled[num_queries:], torch.stack(partners))


def drop_channels(
    features: Float[Tensor, "images positions dim"], dropout: float, generator: Generator
) -> Float[Tensor, "images positions dim"]:
    """Zero random channels, the same at all positions of an image, and scale up the rest."""
    images, _, dim = features.shape
    kept = torch.rand(images, 1, dim, generator=generator) >= dropout
    return features * kept / (1 - dropout)


def pair_up(
    queries: Float[Tensor, "images positions dim"],
    neighbors: Float[Tensor, "images positions dim"],
    partners: Int[Tensor, "supports images"],
) -> Pairings:
    """Correspond every query with itself, its neighbor and its random supports.

    Args:
        queries: Features or codes of the query images.
        neighbors: The same of their neighbors.
        partners: Which query is the random support of which, per support.
    """
    left = normalize(queries, dim=-1)
    right = left.transpose(1, 2)
    return Pairings(
        with_self=left @ right,
        with_neighbor=left @ normalize(neighbors, dim=-1).transpose(1, 2),
        with_random=tuple(left @ right[order] for order in partners),
    )
