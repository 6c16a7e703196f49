"""Loading images as 8-bit RGB, however they are stored, and resizing them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusseg.config.schema import AlphaChannel, DataConfig, Interpolation
from fusseg.data.cameras import see_through
from fusseg.data.decoding import decode_raster, decoded_shape, read_file
from fusseg.data.geometry import Fit, cut, resample, shared_shape
from fusseg.data.items import Item
from fusseg.data.raster import Raster
from fusseg.data.synthetic.scenes import SCENE_SHAPE, Scene, draw_scene

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""Suffixes of files that are listed as images; the format is recognized by the content."""

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_LARGEST = 65535


@dataclass(frozen=True)
class Decoding:
    """Meaning of the values in image files, for all images of a run."""

    white_levels: tuple[int, int, int, int] = (_LARGEST, _LARGEST, _LARGEST, _LARGEST)
    """Value of white in files of 1 to 4 bands; above a type's maximum: that maximum."""
    alpha_channel: AlphaChannel = "blend"

    def white_of(self, raster: Raster) -> int:
        """Return the value of white in an image."""
        return min(self.white_levels[raster.num_bands - 1], raster.largest)


def decoding_of(data: DataConfig) -> Decoding:
    """Resolve `data.white_level` and `data.alpha_channel`.

    If a table has no level for files with transparency, they take the level of those without.

    Examples:
        >>> decoding_of(DataConfig(white_level={"1": 4095})).white_levels
        (4095, 4095, 65535, 65535)
    """
    level = data.white_level
    if level is None or isinstance(level, int):
        same = level or _LARGEST
        return Decoding((same, same, same, same), data.alpha_channel)
    gray, rgb = level.get("1", _LARGEST), level.get("3", _LARGEST)
    levels = (gray, level.get("2", gray), rgb, level.get("4", rgb))
    return Decoding(levels, data.alpha_channel)


DEFAULT = Decoding()
"""The whole range of a type is used, and transparency shows white."""


def read_bytes(item: Item) -> bytes:
    """Read the bytes that identify an image: its file, or the pixels of a scene.

    Raises:
        DataError: If the file is missing, empty, too large, or cannot be read.
    """
    if isinstance(item.image, Scene):
        return draw_scene(item.image)[0].tobytes()
    return read_file(item.image, "image")


def load_image(item: Item, decoding: Decoding = DEFAULT) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image upright (EXIF), as RGB in [0, 255].

    Args:
        item: An image or a crop of one, and the camera that it is seen through.
        decoding: Meaning of its values.

    Raises:
        DataError: If the file cannot be read, is broken, too large, or not convertible to RGB.
    """
    pixels = to_rgb(read_raster(item), decoding)
    pixels = pixels if item.crop is None else cut(pixels, item.crop.share)
    return pixels if item.camera is None else see_through(item.camera, pixels)


def read_raster(item: Item) -> Raster:
    """Read the whole image of an item upright (EXIF), with its values as stored.

    Raises:
        DataError: As `load_image`.
    """
    return raster_of(item, read_bytes(item))


def raster_of(item: Item, data: bytes) -> Raster:
    """Decode the result of `read_bytes`, for callers that also hash the bytes.

    Raises:
        DataError: As `load_image`.
    """
    if isinstance(item.image, Scene):
        return Raster(np.frombuffer(data, np.uint8).reshape(*SCENE_SHAPE, 3).copy(), 255)
    return decode_raster(data, item.image)


def to_rgb(raster: Raster, decoding: Decoding) -> UInt8[np.ndarray, "height width 3"]:
    """Scale stored values to 8 bits, the white level to 255, and blend transparency onto white.

    The white level holds for all bands of a file, and values above it are white. The result of a
    pixel does not depend on the rest of the image.
    """
    values, white = raster.values, decoding.white_of(raster)
    if values.dtype != np.uint8 or white != 255:
        values = _to_8_bits(white)[values]
    if raster.inverted:
        values = values.copy()
        colors = values[:, :, :-1] if raster.has_alpha else values
        np.subtract(255, colors, out=colors)
    if raster.has_alpha:
        values = values[:, :, :-1] if decoding.alpha_channel == "ignore" else _blend(values, raster)
    rgb = values.repeat(3, axis=2) if values.shape[2] == 1 else values
    return np.ascontiguousarray(rgb)


@lru_cache(maxsize=8)
def _to_8_bits(white: int) -> UInt8[np.ndarray, " values"]:
    """Make a table of the 8-bit value of every 16-bit value, rounded half up."""
    values = np.minimum(np.arange(_LARGEST + 1), white)
    return ((values * 510 + white) // (2 * white)).astype(np.uint8)


def _blend(
    values: UInt8[np.ndarray, "height width bands"], raster: Raster
) -> UInt8[np.ndarray, "height width 3"]:
    modes = ("La", "RGBa") if raster.premultiplied else ("LA", "RGBA")
    bands = np.ascontiguousarray(values)
    mode = modes[values.shape[2] // 4]
    size = (values.shape[1], values.shape[0])
    layer = Image.frombytes(mode, size, bands.tobytes())
    if raster.premultiplied:
        layer = layer.convert(mode.upper())
    layer = layer.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return np.array(Image.alpha_composite(white, layer).convert("RGB"))


def image_shape(item: Item) -> tuple[int, int]:
    """Return height and width of an item's image or crop, upright, without decoding it.

    Raises:
        DataError: As `source_shape`.
    """
    shape = source_shape(item)
    return shape if item.crop is None else shared_shape(shape, item.crop.share)


def source_shape(item: Item) -> tuple[int, int]:
    """Return height and width of the whole image of an item, upright, without decoding it.

    Raises:
        DataError: If the file cannot be read, its header is broken, or it is too large.
    """
    if isinstance(item.image, Scene):
        return SCENE_SHAPE
    return decoded_shape(read_file(item.image, "image"), "image", item.image)


def fit_image(
    image: UInt8[np.ndarray, "height width 3"],
    size: tuple[int, int],
    fit: Fit,
    interpolation: Interpolation,
) -> UInt8[np.ndarray, "fitted_height fitted_width 3"]:
    """Resize an image, antialiased; unchanged if it has that size already.

    Args:
        image: RGB in [0, 255].
        size: New height and width.
        fit: `crop` keeps the aspect ratio and cuts off what is too long; `stretch` does not.
        interpolation: Resampling filter; `nearest` is the only one without antialiasing.
    """
    return resample(image, size, fit, _FILTERS[interpolation])
