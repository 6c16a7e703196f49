"""The features of a set of images, read directly from one or more stores."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from fusseg.features.cache.codecs import CodedMaps, Maps, read_positions
from fusseg.features.cache.store import Store

_SPREAD_IMAGES = 64
"""Number of images that are read to measure the spread of features."""


@dataclass(frozen=True)
class FeatureSet:
    """Feature maps of one client's images on disk, and their mean features in memory."""

    names: tuple[str, ...]
    """`site/stem` of each image."""
    digests: tuple[str, ...]
    """SHA-256 of each image's bytes."""
    maps: tuple[Maps, ...]
    """One memory map per store; all maps of training images have the same height and width."""
    rows: Int[np.ndarray, "images 2"]
    """Memory map and row of each image."""
    pooled: Float32[np.ndarray, "images dim"]
    """Mean feature of each image."""
    fingerprint: str
    """Fingerprint of the backbone that the features come from."""

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a feature map, if all have the same shape."""
        height, width, dim = self.maps[0].shape[1:]
        return height, width, dim

    @property
    def digest(self) -> str:
        """One digest for these images in this order."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    def feature_map(self, image: int) -> Float[Tensor, "height width dim"]:
        """Read one image's whole feature map."""
        store, row = self.rows[image]
        return torch.from_numpy(self.maps[store][int(row)].astype(np.float32))

    def gather(
        self, images: Int[Tensor, " images"], positions: Int[Tensor, "images positions"]
    ) -> Float[Tensor, "images positions dim"]:
        """Read the features of some positions of some images.

        Args:
            images: Indices of images; repeats are allowed.
            positions: Flat positions (row times width plus column) in each of them.
        """
        dim = self.map_shape[2]
        coded = any(isinstance(maps, CodedMaps) for maps in self.maps)
        gathered = np.empty((*positions.shape, dim), dtype=np.float32 if coded else np.float16)
        for place, (image, spots) in enumerate(zip(images.tolist(), positions, strict=True)):
            store, row = self.rows[image]
            gathered[place] = read_positions(self.maps[store], int(row), spots.numpy())
        return torch.from_numpy(gathered).float()

    def pick(self, images: Int[np.ndarray, " picked"]) -> "FeatureSet":
        """View some of the images, in the given order."""
        return FeatureSet(
            names=tuple(self.names[image] for image in images),
            digests=tuple(self.digests[image] for image in images),
            maps=self.maps,
            rows=self.rows[images],
            pooled=self.pooled[images],
            fingerprint=self.fingerprint,
        )

    def feature_sum(self) -> Float[Tensor, " dim"]:
        """Sum of all feature vectors, in float64."""
        height, width, _ = self.map_shape
        total = self.pooled.sum(axis=0, dtype=np.float64) * (height * width)
        return torch.from_numpy(total)

    def mean_feature(self) -> Float[Tensor, " dim"]:
        """Mean of all feature vectors."""
        return (self.feature_sum() / self.feature_count).float()

    def feature_spread(self) -> float:
        """Standard deviation of the feature vectors: root mean square distance from their mean.

        Measured on up to 64 images, evenly spaced from the first to the last.
        """
        count = min(len(self), _SPREAD_IMAGES)
        images = [place * (len(self) - 1) // max(1, count - 1) for place in range(count)]
        maps = torch.stack([self.feature_map(image).flatten(0, 1).double() for image in images])
        return float((maps - maps.mean(dim=(0, 1))).square().sum(dim=2).mean().sqrt())

    @property
    def feature_count(self) -> int:
        """Number of feature vectors."""
        height, width, _ = self.map_shape
        return len(self) * height * width


def read_features(store: Store, names: Sequence[str], digests: Sequence[str]) -> FeatureSet:
    """View the rows of some images in a store.

    Args:
        store: Store of the features.
        names: `site/stem` of each image.
        digests: Digest of each image's bytes; each must have a row.
    """
    row_of = {digest: row for row, digest in enumerate(store.digests())}
    rows = np.array([row_of[digest] for digest in digests], dtype=np.int64)
    return FeatureSet(
        names=tuple(names),
        digests=tuple(digests),
        maps=(store.maps(),),
        rows=np.stack([np.zeros_like(rows), rows], axis=1),
        pooled=_pick_rows(store.pooled(), rows),
        fingerprint=store.settings.fingerprint,
    )


def _pick_rows(
    pooled: Float32[np.ndarray, "rows dim"], rows: Int[np.ndarray, " images"]
) -> Float32[np.ndarray, "images dim"]:
    """Copy rows of a memory map, but do not copy consecutive rows: they stay on disk."""
    first = int(rows[0]) if len(rows) else 0
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        return pooled[first : first + len(rows)]
    return np.asarray(pooled[rows])


def pool_features(parts: Sequence[FeatureSet]) -> FeatureSet:
    """View several sets as one, in the given order, without copying maps."""
    maps: list[Maps] = []
    rows: list[np.ndarray] = []
    for part in parts:
        rows.append(part.rows + np.array([len(maps), 0]))
        maps += part.maps
    return FeatureSet(
        names=tuple(name for part in parts for name in part.names),
        digests=tuple(digest for part in parts for digest in part.digests),
        maps=tuple(maps),
        rows=np.concatenate(rows),
        pooled=np.concatenate([part.pooled for part in parts]),
        fingerprint=parts[0].fingerprint,
    )
