"""Nearest images by the cosine of their mean features: computed in chunks and cached on disk."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically
from fusseg.features.feature_set import FeatureSet

CHUNK_BYTES = 64 * 2**20
"""Memory for one block of cosines; products of blocks with few rows take longer."""
_STRIP = 128
"""Columns of a strip; the search starts with the largest cosine of each strip."""


def nearest_neighbors(
    pooled: Float[Tensor, "images dim"], num_neighbors: int
) -> Int[Tensor, "images neighbors"]:
    """Find each image's nearest other images by the cosine of their mean features.

    Args:
        pooled: Mean feature of each image, centered where the backbone needs it.
        num_neighbors: Number of neighbors; fewer if there are not as many other images.

    Returns:
        Indices, nearest first, equally near ones in order; never the image itself.

    Raises:
        DataError: If there are fewer than two images.

    Examples:
        >>> nearest_neighbors(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), 1).tolist()
        [[1], [0], [1]]
    """
    if len(pooled) < 2:
        raise DataError(f"nearest neighbors need at least 2 images, got {len(pooled)}")
    directions = normalize(pooled, dim=1)
    num_neighbors = min(num_neighbors, len(pooled) - 1)
    chunk = min(len(pooled), max(1, CHUNK_BYTES // (4 * len(pooled))))
    found, block = [], torch.empty(chunk, len(pooled), dtype=pooled.dtype)
    for rows in torch.split(torch.arange(len(pooled)), chunk):
        cosines = torch.mm(directions[rows[0] : rows[-1] + 1], directions.T, out=block[: len(rows)])
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        found.append(_largest(cosines, num_neighbors))
    return torch.cat(found)


def _largest(cosines: Float[Tensor, "rows columns"], count: int) -> Int[Tensor, "rows {count}"]:
    """Find the columns of each row's largest values, largest first, equal ones in order.

    The `count` largest values lie in the `count` strips of columns with the largest maxima, so only
    these are sorted. This needs only one pass over all values, at the speed of memory.
    """
    columns = cosines.shape[1]
    whole = columns - columns % _STRIP
    maxima = cosines[:, :whole].reshape(len(cosines), -1, _STRIP).amax(dim=2)
    if whole < columns:
        maxima = torch.cat([maxima, cosines[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    strips = maxima.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
    places = (strips[:, :, None] * _STRIP + torch.arange(_STRIP)).flatten(1)
    values = cosines.gather(1, places.clamp(max=columns - 1))
    values = values.masked_fill_(places >= columns, -torch.inf)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :count]
    found: Tensor = places.gather(1, order)
    return found


def cached_neighbors(
    features: FeatureSet, mean_feature: Float[Tensor, " dim"], num_neighbors: int, cache: Path
) -> Int[Tensor, "images neighbors"]:
    """Find nearest neighbors once and keep them in the cache folder.

    Args:
        features: The client's images.
        mean_feature: Subtracted from every mean feature; zeros if features are not centered.
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
    """Read a neighbor file; None if it is missing or damaged, because computing it is cheap."""
    try:
        indices = np.fromfile(path, dtype=np.int64)
    except OSError:
        return None
    shape = (num_images, min(num_neighbors, num_images - 1))
    if indices.size != shape[0] * shape[1] or ((indices < 0) | (indices >= num_images)).any():
        return None
    return torch.from_numpy(indices.reshape(shape))
