"""Pixels as stored in a file, before white level and transparency are applied."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt

from fusseg.core.errors import DataError

GRAY, GRAY_ALPHA, RGB, RGB_ALPHA = 1, 2, 3, 4
"""Numbers of bands of a raster."""

Bands = UInt[np.ndarray, "height width bands"]


@dataclass(frozen=True, eq=False)
class Raster:
    """One image, upright: gray or RGB, followed by the band of transparency if there is one."""

    values: Bands
    """8 or 16 bits; 1 to 4 bands."""
    largest: int
    """Largest value that the file's type can hold: 255, 4095 or 65535."""
    inverted: bool = False
    """Whether 0 is white."""
    premultiplied: bool = False
    """Whether the colors are already multiplied by the transparency."""

    @property
    def num_bands(self) -> int:
        """Number of bands, including transparency."""
        return int(self.values.shape[2])

    @property
    def has_alpha(self) -> bool:
        """Whether the last band is transparency."""
        return self.num_bands in (GRAY_ALPHA, RGB_ALPHA)


def turned(raster: Raster, orientation: int) -> Raster:
    """Turn a raster upright.

    Args:
        raster: As stored.
        orientation: Orientation as in EXIF and TIFF, 1 to 8.
    """
    values = raster.values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return replace(raster, values=values)


def from_integers(gray: np.ndarray, name: object, largest: int = 65535) -> Raster:
    """Make a raster of 16 bits from gray values of up to 32 bits.

    Raises:
        DataError: If a value does not fit into 16 bits.
    """
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65535:
        raise DataError(
            f"image has gray values from {low} to {high}, outside 0 to 65535; "
            f"save it with 8 or 16 bits: {name}"
        )
    return Raster(gray.astype(np.uint16)[:, :, None], largest)
