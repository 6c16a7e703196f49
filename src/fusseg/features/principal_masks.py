"""Masks of an image from its features (PriMaPs, arXiv 2404.16818), each cached on disk.

A mask is the set of positions similar to a seed, the feature nearest to the first principal
direction of those not yet in a mask. Everything follows from the products of all pairs of features,
which are computed once per image.
"""

import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically
from fusseg.features.feature_set import FeatureSet

NO_MASK = 255
"""Marks positions in no mask."""
_COLUMNS, _ITERATIONS, _TOLERANCE = 8, 50, 1e-3
"""Size, most iterations and relative error of the search for the first principal direction."""


@dataclass(frozen=True)
class MaskSettings:
    """What the masks of an image depend on, besides its features."""

    threshold: float
    """Smallest cosine to the seed, as a share of the largest."""
    coverage: float
    """Share of the positions that are in masks at the end."""
    most: int
    """Most masks per image, at most `NO_MASK`."""


@dataclass(frozen=True)
class ImageMasks:
    """Masks of a client's images: on disk, or computed when they are read."""

    features: FeatureSet
    mean_feature: Float[Tensor, " dim"]
    """Subtracted from every feature; zeros if features are not centered."""
    settings: MaskSettings
    folder: Path
    """Folder with one small file per image."""


def open_masks(
    features: FeatureSet,
    mean_feature: Float[Tensor, " dim"],
    settings: MaskSettings,
    cache: Path,
) -> ImageMasks:
    """Open the masks of a client's images; none is computed yet.

    Args:
        features: The client's images.
        mean_feature: As in `ImageMasks`.
        settings: As in `ImageMasks`.
        cache: Cache folder; files are added in a folder under `masks/` per backbone, mean feature
            and settings.
    """
    key = hashlib.sha256(features.fingerprint.encode())
    key.update(repr((features.map_shape, astuple(settings))).encode())
    key.update(mean_feature.numpy().tobytes())
    return ImageMasks(features, mean_feature, settings, cache / "masks" / key.hexdigest()[:32])


def read_masks(masks: ImageMasks, image: int) -> UInt8[Tensor, " positions"]:
    """Read the mask of every position of an image, or compute and store them.

    Args:
        masks: The opened masks.
        image: Index of the image.

    Returns:
        Index of the mask, in the order in which they were found; `NO_MASK` for positions in none.

    Raises:
        DataError: If the file cannot be written.
    """
    features = masks.features
    height, width, dim = features.map_shape
    # The mean feature stands for how the image was resized and cropped.
    key = hashlib.sha256(features.digests[image].encode())
    key.update(features.pooled[image].tobytes())
    path = masks.folder / f"{key.hexdigest()[:32]}.u8"
    kept = _read(path, height * width, masks.settings.most)
    if kept is not None:
        return kept
    centered = features.feature_map(image).reshape(-1, dim) - masks.mean_feature
    found = principal_masks(centered, masks.settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, found.numpy().tobytes())
    except OSError as error:
        raise DataError(
            f"cannot write the masks {path}: {error.strerror}; choose another cache folder with "
            "--cache or FUSSEG_CACHE"
        ) from error
    return found


def principal_masks(
    features: Float[Tensor, "positions dim"], settings: MaskSettings
) -> UInt8[Tensor, " positions"]:
    """Divide the positions of an image into masks (PriMaPs, section 3.1).

    Again and again: the seed is the feature with the largest absolute cosine to the first principal
    direction, whose sign means nothing; its mask are all positions not in a mask with a cosine to
    it of at least `threshold` times the largest.

    >>> features = torch.tensor([[2.0, 0.0], [3.0, 0.3], [0.0, 1.0], [0.1, 1.0], [5.0, 0.0]])
    >>> principal_masks(features, MaskSettings(threshold=0.5, coverage=1.0, most=9)).tolist()
    [0, 0, 1, 1, 0]

    Args:
        features: Centered features of one image.
        settings: Threshold, coverage, and most masks.

    Returns:
        As `read_masks`.
    """
    products = features @ features.T
    lengths = products.diagonal().sqrt().clamp(min=torch.finfo(products.dtype).tiny)
    masks = torch.full((len(features),), NO_MASK, dtype=torch.uint8)
    left = torch.arange(len(features))
    for number in range(settings.most):
        if len(left) <= (1 - settings.coverage) * len(features):
            break
        inside = products[left][:, left]
        seed = _seed(inside, lengths[left])
        # Cosines to the seed up to its length, which is a common factor.
        similarities = inside[seed] / lengths[left]
        chosen = similarities >= settings.threshold * similarities.max()
        masks[left[chosen]] = number
        left = left[~chosen]
    return masks


def _seed(products: Float[Tensor, "left left"], lengths: Float[Tensor, " left"]) -> int:
    """Find the position with the largest absolute cosine to the first principal direction."""
    means = products.mean(dim=0)
    centered = products - means - means[:, None] + means.mean()
    shares = first_eigenvector(centered)
    # The direction is the sum of the centered features, each times its share.
    along = products @ (shares - shares.mean())
    return int((along.abs() / lengths).argmax())


def first_eigenvector(matrix: Float[Tensor, "size size"]) -> Float[Tensor, " size"]:
    """Find the eigenvector of the largest eigenvalue of a symmetric matrix without negative ones.

    By subspace iteration, until the residual is a thousandth of the eigenvalue: a seed needs no
    more, and all eigenvectors of a matrix of 1,000 take seconds.
    """
    size = len(matrix)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, min(_COLUMNS, size), dtype=matrix.dtype, generator=generator)
    basis: Tensor = torch.linalg.qr(start).Q
    vector = basis[:, 0]
    for _ in range(_ITERATIONS):
        image = matrix @ basis
        values, vectors = torch.linalg.eigh(basis.T @ image)
        vector = basis @ vectors[:, -1]
        residual = (image @ vectors[:, -1] - values[-1] * vector).norm()
        if residual <= _TOLERANCE * values[-1].abs():
            break
        basis = torch.linalg.qr(image).Q
    return vector


def _read(path: Path, num_positions: int, most: int) -> UInt8[Tensor, " positions"] | None:
    """Read a file of masks; None if it is missing or damaged, because computing it is cheap."""
    try:
        numbers = np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
    if numbers.size != num_positions or ((numbers >= most) & (numbers != NO_MASK)).any():
        return None
    return torch.from_numpy(numbers)
