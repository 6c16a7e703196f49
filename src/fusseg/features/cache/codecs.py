"""Formats of feature maps on disk: float16, 8 bits per channel, or principal components."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int
from torch import Tensor

from fusseg.config.schema import BackboneConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import write_atomically

Shape = tuple[int, int, int]
"""Height, width and channels of a feature map."""
Row = np.ndarray | np.void
"""One feature map on disk: an array, or a record of several."""
_BASIS = "basis.f32"
_BASIS_IMAGES = 32
_BASIS_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Basis:
    """Principal components of the features of one store."""

    mean: Float32[Tensor, " dim"]
    components: Float32[Tensor, "components dim"]
    """Orthonormal, the largest variance first."""


@dataclass(frozen=True)
class Codec:
    """Functions that turn feature maps into rows of one store, and back."""

    encode: Callable[[Float16[np.ndarray, "height width dim"]], np.ndarray]
    """From one feature map to one row."""
    decode: Callable[[Row, Int[np.ndarray, " picked"] | slice], np.ndarray]
    """From some positions of one row to features, picked x dim, in float16 or float32."""


@dataclass(frozen=True)
class CodedMaps:
    """Feature maps of one store, decoded when they are read."""

    rows: np.ndarray
    map_shape: Shape
    codec: Codec

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, height, width and channels, like the shape of an array."""
        return len(self.rows), *self.map_shape

    def __getitem__(self, row: int) -> Float32[np.ndarray, "height width dim"]:
        features: np.ndarray = self.codec.decode(self.rows[row], slice(None))
        return features.reshape(self.map_shape)

    def __iter__(self) -> Iterator[Float32[np.ndarray, "height width dim"]]:
        return (self[row] for row in range(len(self.rows)))


Maps = Float16[np.ndarray, "_ _ _ dim"] | CodedMaps
"""Feature maps of one store: memory-mapped directly, or decoded when read."""


def read_positions(
    maps: Maps, row: int, positions: Int[np.ndarray, " picked"]
) -> Float[np.ndarray, "picked dim"]:
    """Read some positions of one feature map."""
    if isinstance(maps, CodedMaps):
        return maps.codec.decode(maps.rows[row], positions)
    features: np.ndarray = maps[row].reshape(-1, maps.shape[3])[positions]
    return features


@dataclass(frozen=True)
class Packing:
    """One format of feature maps on disk."""

    file: str
    row: Callable[[Shape, int], np.dtype]
    """Type of one row, from the shape of a feature map and the number of components."""
    codec: Callable[[Basis | None], Codec]
    needs_basis: bool = False


def packing_of(cache: str) -> tuple[Packing, int]:
    """Look up the packing of `backbone.cache`, and its number of components (0: none)."""
    kind, _, number = cache.partition(":")
    return PACKINGS[kind], int(number or 0)


def row_type(cache: str, shape: Shape) -> np.dtype:
    """Return the type of one row on disk."""
    packing, components = packing_of(cache)
    return packing.row(shape, components)


def check_cache(config: BackboneConfig, feature_dim: int) -> None:
    """Refuse a `backbone.cache` with as many principal components as channels, or more.

    Raises:
        ConfigError: If there are too many components.
    """
    _, components = packing_of(config.cache)
    if components >= feature_dim:
        raise ConfigError(
            f"backbone.cache {config.cache!r} must keep fewer components than backbone "
            f"{config.name!r} has channels, {feature_dim}; lower it, or keep 'float16' or 'int8'"
        )


def basis_images(shape: Shape) -> int:
    """Return the largest number of feature maps from which a basis is found."""
    return min(_BASIS_IMAGES, max(1, _BASIS_BYTES // (2 * int(np.prod(shape)))))


def find_basis(maps: Sequence[Float16[np.ndarray, "height width dim"]], components: int) -> Basis:
    """Find the principal components of all positions of some feature maps, without whitening.

    Args:
        maps: Feature maps of one shape.
        components: Number of components, smaller than that of channels.
    """
    dim = maps[0].shape[2]
    # Around the first map's mean, so that a large offset costs float32 products no precision.
    origin = _floats(maps[0]).mean(dim=0)
    total, products = torch.zeros(dim).double(), torch.zeros(dim, dim).double()
    for feature_map in maps:
        moved = _floats(feature_map).sub_(origin)
        total += moved.sum(dim=0, dtype=torch.float64)
        products += moved.T @ moved
    count = len(maps) * maps[0].shape[0] * maps[0].shape[1]
    mean = total / count
    _, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    directions = vectors.T.flip(0)[:components]
    # The sign of an eigenvector is arbitrary: make its largest entry positive.
    largest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign()
    return Basis((origin + mean).float(), directions.float().contiguous())


def read_basis(folder: Path, components: int, dim: int) -> Basis | None:
    """Read the basis of a store; None if it is missing or cut short."""
    try:
        values = np.fromfile(folder / _BASIS, dtype="<f4")
    except OSError:
        return None
    if values.size != (1 + components) * dim:
        return None
    rows = torch.from_numpy(values.astype(np.float32).reshape(1 + components, dim))
    return Basis(rows[0], rows[1:].contiguous())


def write_basis(folder: Path, basis: Basis) -> None:
    """Write a basis beside the rows that need it."""
    rows = torch.cat([basis.mean[None], basis.components])
    write_atomically(folder / _BASIS, rows.numpy().astype("<f4").tobytes())


def _plain_row(shape: Shape, _: int) -> np.dtype:
    return np.dtype((np.float16, shape))


def _plain(_: Basis | None) -> Codec:
    def decode(
        row: Row, positions: Int[np.ndarray, " picked"] | slice
    ) -> Float16[np.ndarray, "picked dim"]:
        features: np.ndarray = row.reshape(-1, row.shape[2])[positions]
        return features

    return Codec(np.ascontiguousarray, decode)


def _bytes_row(shape: Shape, _: int) -> np.dtype:
    dim = shape[2]
    return np.dtype([("low", "<f4", dim), ("step", "<f4", dim), ("levels", "u1", shape)])


def _bytes(_: Basis | None) -> Codec:
    """Quantize to 256 even levels between the extreme values of each channel of each image."""

    def encode(features: Float16[np.ndarray, "height width dim"]) -> np.ndarray:
        values = _floats(features)
        low, high = values.aminmax(dim=0)
        step = (high - low) / 255
        # A channel with a single value has level 0 everywhere.
        values.sub_(low).div_(step.where(step > 0, 1.0)).round_()
        row = np.empty((), dtype=_bytes_row(features.shape, 0))
        row["low"], row["step"] = low.numpy(), step.numpy()
        row["levels"] = values.to(torch.uint8).numpy().reshape(features.shape)
        return row

    def decode(
        row: Row, positions: Int[np.ndarray, " picked"] | slice
    ) -> Float32[np.ndarray, "picked dim"]:
        levels = row["levels"]
        values: np.ndarray = levels.reshape(-1, levels.shape[2])[positions].astype(np.float32)
        values *= row["step"]
        values += row["low"]
        return values

    return Codec(encode, decode)


def _components_row(shape: Shape, components: int) -> np.dtype:
    return np.dtype((np.float16, (*shape[:2], components)))


def _components(basis: Basis | None) -> Codec:
    """Keep coordinates in the basis of the store."""
    assert basis is not None
    mean, directions = basis.mean, basis.components

    def encode(
        features: Float16[np.ndarray, "height width dim"],
    ) -> Float16[np.ndarray, "height width components"]:
        coordinates = (_floats(features).sub_(mean) @ directions.T).half()
        if not bool(coordinates.isfinite().all()):
            raise DataError(
                "principal components of features exceed the largest float16, 65504; set "
                "backbone.cache to 'float16' or 'int8'"
            )
        return coordinates.numpy().reshape(*features.shape[:2], len(directions))

    def decode(
        row: Row, positions: Int[np.ndarray, " picked"] | slice
    ) -> Float32[np.ndarray, "picked dim"]:
        coordinates = torch.from_numpy(row.reshape(-1, row.shape[2])[positions].astype(np.float32))
        return torch.addmm(mean, coordinates, directions).numpy()

    return Codec(encode, decode)


def _floats(
    features: Float16[np.ndarray, "height width dim"],
) -> Float32[Tensor, "positions dim"]:
    # Always a copy: a memory map is not writable, and torch warns about such arrays.
    return torch.from_numpy(features.astype(np.float32)).flatten(0, 1)


PACKINGS = {
    "float16": Packing("features.f16", _plain_row, _plain),
    "int8": Packing("features.i8", _bytes_row, _bytes),
    "pca": Packing("features.pca", _components_row, _components, needs_basis=True),
}
"""Formats by the first word of `backbone.cache`."""
