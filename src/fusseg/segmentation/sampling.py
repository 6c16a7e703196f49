"""Draw the images, positions and partners of a training step (method section 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from fusseg.features.feature_set import FeatureSet


@dataclass(frozen=True)
class Batch:
    """Sampled features of the query images and their neighbors, and the pairs they form."""

    features: Float[Tensor, "both positions dim"]
    """Features of the queries, then of their neighbors in the same order."""
    partners: Int[Tensor, "supports images"]
    """Random supports: each row is a permutation of the queries without fixed points."""
    counted: Bool[Tensor, "supports images"]
    """Whether the partner is a different image from the query. It can be the same image if one was
    drawn twice."""


@dataclass(frozen=True)
class Places:
    """The images and positions of one step, and the pairs that the images form."""

    images: Int[Tensor, " both"]
    """Query images, then the neighbor of each."""
    positions: Int[Tensor, "both positions"]
    partners: Int[Tensor, "supports images"]
    """As in `Batch`."""

    @property
    def counted(self) -> Bool[Tensor, "supports images"]:
        """As in `Batch`."""
        queries = self.images[: self.partners.shape[1]]
        return queries[self.partners] != queries


def query_batches(
    num_images: int, batch_size: int, generator: Generator
) -> Iterator[Int[Tensor, " batch"]]:
    """Draw batches of query images without end.

    Images come in shuffled epochs. An incomplete last batch is dropped, so no image is in a batch
    twice. A client with fewer images than a batch draws with replacement.
    """
    while True:
        if num_images < batch_size:
            yield torch.randint(num_images, (batch_size,), generator=generator)
        else:
            order = torch.randperm(num_images, generator=generator)
            yield from order[: num_images // batch_size * batch_size].reshape(-1, batch_size)


def derangement(size: int, generator: Generator) -> Int[Tensor, " size"]:
    """Draw a permutation without fixed points, each equally likely.

    >>> derangement(2, Generator())
    tensor([1, 0])

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


def draw_places(
    nearest: Int[Tensor, "images neighbors"],
    queries: Int[Tensor, " batch"],
    num_positions: int,
    per_image: int,
    num_supports: int,
    generator: Generator,
) -> Places:
    """Draw positions in every query image and its neighbor, and the random supports.

    STEGO samples maps bilinearly at continuous coordinates, again for each pairing. Here positions
    are integers drawn once per step, so only these pass through the head.

    Args:
        nearest: Nearest images of each image; a query's neighbor is drawn from its row.
        queries: Query images.
        num_positions: Number of positions of a feature map.
        per_image: Positions to draw in each image, with replacement.
        num_supports: Random support images per query.
        generator: Random source.
    """
    choice = torch.randint(nearest.shape[1], (len(queries),), generator=generator)
    images = torch.cat([queries, nearest[queries, choice]])
    positions = torch.randint(num_positions, (len(images), per_image), generator=generator)
    partners = [derangement(len(queries), generator) for _ in range(num_supports)]
    return Places(images, positions, torch.stack(partners))


def draw_batch(
    features: FeatureSet,
    nearest: Int[Tensor, "images neighbors"],
    queries: Int[Tensor, " batch"],
    mean_feature: Float[Tensor, " dim"],
    per_image: int,
    num_supports: int,
    generator: Generator,
) -> Batch:
    """Draw the positions of one step and read their features.

    Args:
        features: Features of the client's images.
        nearest: As in `draw_places`.
        queries: Query images.
        mean_feature: Subtracted from every feature; zeros if features are not centered.
        per_image: As in `draw_places`.
        num_supports: As in `draw_places`.
        generator: Random source.
    """
    height, width, _ = features.map_shape
    places = draw_places(nearest, queries, height * width, per_image, num_supports, generator)
    sampled = features.gather(places.images, places.positions).sub_(mean_feature)
    return Batch(sampled, places.partners, places.counted)


def draw_kept(
    num_images: int, dim: int, dropout: float, generator: Generator
) -> Bool[Tensor, "{num_images} 1 {dim}"]:
    """Draw the channels of each image to keep, each with probability 1 - `dropout`."""
    return torch.rand(num_images, 1, dim, generator=generator) >= dropout


def drop_channels(
    features: Float[Tensor, "images positions dim"],
    kept: Bool[Tensor, "images 1 dim"],
    dropout: float,
) -> Float[Tensor, "images positions dim"]:
    """Zero the channels not kept, at all positions of an image, and scale up the others."""
    return (features * kept).div_(1 - dropout)
