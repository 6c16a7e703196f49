"""Nearest images by the cosine of their mean features, in chunks and kept on disk."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.atomic import write_atomically
from fusseg.errors import DataError
from fusseg.features.feature_set import FeatureSet

CHUNK_BYTES = 256 * 2**20
"""Memory for one block of cosines."""


def nearest_neighbors(
    pooled: Float[Tensor, "images dim"], num_neighbors: int
) -> Int[Tensor, "images neighbors"]:
    """Find each image's nearest other images by the cosine of their mean features.

    Args:
        pooled: Mean feature of each image, centered where the backbone needs it.
        num_neighbors: How many to find; fewer where there are not as many other images.

    Returns:
        Indices, nearest first, never the image itself.

    Raises:
        DataError: If there are fewer than two images.
    """
    if len(pooled) < 2:
        raise DataError(f"nearest neighbors need at least 2 images, got {len(pooled)}")
    directions = normalize(pooled, dim=1)
    num_neighbors = min(num_neighbors, len(pooled) - 1)
    chunk = max(1, CHUNK_BYTES // (4 * len(pooled)))
    found = []
    for start in range(0, len(pooled), chunk):
        cosines = directions[start : start + chunk] @ directions.T
        rows = torch.arange(len(cosines))
        cosines[rows, start + rows] = -torch.inf
        found.append(cosines.topk(num_neighbors, dim=1).indices)
    return torch.cat(found)


def cached_neighbors(
    features: FeatureSet, mean_feature: Float[Tensor, " dim"], num_neighbors: int, cache: Path
) -> Int[Tensor, "images neighbors"]:
    """Find nearest neighbors once and keep them in the cache folder.

    Args:
        features: The client's images.
        mean_feature: Subtracted from every mean feature; zeros where nothing is centered.
        num_neighbors: As in `nearest_neighbors`.
        cache: Cache folder; one small file per set of images is added under `neighbors/`.

    Raises:
        DataError: If there are fewer than two images, or the file cannot be written.
    """
    key = hashlib.sha256()
    for part in (
        features.digest.encode(),
        features.pooled.tobytes(),
        mean_feature.numpy().tobytes(),
    ):
        key.update(hashlib.sha256(part).digest())
    path = cache / "neighbors" / f"{key.hexdigest()[:32]}-{num_neighbors}.i64"
    kept = _read(path, len(features), num_neighbors)
    if kept is not None:
        return kept
    neighbors = nearest_neighbors(torch.from_numpy(features.pooled) - mean_feature, num_neighbors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, neighbors.numpy().tobytes())
    except OSError as error:
        raise DataError(
            f"cannot write the nearest neighbors {path}: {error.strerror}; choose another cache "
            "folder with --cache or FUSSEG_CACHE"
        ) from error
    return neighbors


def _read(
    path: Path, num_images: int, num_neighbors: int
) -> Int[Tensor, "images neighbors"] | None:
    """Read a neighbor file; None where it is missing or damaged: computing it again is cheap."""
    try:
        indices = np.fromfile(path, dtype=np.int64)
    except OSError:
        return None
    shape = (num_images, min(num_neighbors, num_images - 1))
    if indices.size != shape[0] * shape[1] or ((indices < 0) | (indices >= num_images)).any():
        return None
    return torch.from_numpy(indices.reshape(shape))
