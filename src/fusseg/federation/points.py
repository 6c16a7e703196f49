"""The sampled positions of a client, used by Lloyd steps, PCA and consensus."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.core.randomness import image_generator
from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.head import HeadWeights, apply_head, build_head

_CHUNK_POSITIONS = 4096
"""Number of positions with features in memory at once, but at least those of one image."""
_KEPT_BYTES = 2**30
"""Memory for the codes of all clients of this process that are kept between Lloyd steps."""


def sample_positions(features: FeatureSet, per_image: int, seed: int) -> Int[Tensor, "images n"]:
    """Draw positions of every image, without replacement.

    They depend only on the seed and the image, so any partition of the same images samples the same
    positions.

    Args:
        features: Features of the client's images.
        per_image: Positions per image; 0, or more than there are: all.
        seed: Seed of the experiment.
    """
    height, width, _ = features.map_shape
    total = height * width
    if per_image == 0 or per_image >= total:
        return torch.arange(total).expand(len(features), total)
    drawn = [
        torch.randperm(total, generator=image_generator(seed, digest))[:per_image]
        for digest in features.digests
    ]
    return torch.stack(drawn)


def feature_chunks(
    features: FeatureSet,
    positions: Int[Tensor, "images n"],
    mean_feature: Float[Tensor, " dim"],
) -> Iterator[Float[Tensor, "points dim"]]:
    """Read the centered features of the positions, a few images at a time."""
    images_at_once = max(1, _CHUNK_POSITIONS // positions.shape[1])
    for images in torch.split(torch.arange(len(features)), images_at_once):
        yield (features.gather(images, positions[images]) - mean_feature).flatten(0, 1)


def unit_codes(
    head: HeadWeights,
    features: FeatureSet,
    positions: Int[Tensor, "images n"],
    mean_feature: Float[Tensor, " dim"],
) -> Iterator[Float[Tensor, "points code"]]:
    """Project the positions to codes of unit length, a few images at a time."""
    built = build_head(head)
    for chunk in feature_chunks(features, positions, mean_feature):
        yield normalize(apply_head(built, chunk), dim=1)


class KeptCodes:
    """Cache of the codes of a client's sampled positions, valid while its head does not change.

    Consecutive Lloyd steps use the same head, so features have to be projected only once. Where
    several starts are measured side by side, each has a place of its own.
    """

    def __init__(self, per_image: int, seed: int) -> None:
        self.seed = seed
        self._per_image = per_image
        self._kept: dict[tuple[str, int], tuple[HeadWeights, list[Tensor]]] = {}
        self._bytes = 0

    def of_client(
        self,
        client_id: str,
        features: FeatureSet,
        head: HeadWeights,
        mean_feature: Float[Tensor, " dim"],
        place: int = 0,
    ) -> Iterable[Float[Tensor, "_ code"]]:
        """Return codes in chunks, cached or new; new ones are cached if there is room."""
        key = client_id, place
        kept = self._kept.get(key)
        if kept is not None and all(torch.equal(kept[0][name], head[name]) for name in head):
            return kept[1]
        self._drop(key)
        positions = sample_positions(features, self._per_image, self.seed)
        codes = unit_codes(head, features, positions, mean_feature)
        code_dim = len(head["linear.weight"])
        num_bytes = positions.numel() * code_dim * 4
        if self._bytes + num_bytes > _KEPT_BYTES:
            return codes
        self._kept[key] = (head, list(codes))
        self._bytes += num_bytes
        return self._kept[key][1]

    def forget(self) -> None:
        """Drop all codes: they are useless once the heads are trained further."""
        self._kept.clear()
        self._bytes = 0

    def _drop(self, key: tuple[str, int]) -> None:
        _, codes = self._kept.pop(key, ({}, []))
        self._bytes -= sum(chunk.numel() * chunk.element_size() for chunk in codes)
