"""Images as 8-bit RGB, whatever they are stored as, and fitted to one size."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusseg.config import Interpolation
from fusseg.data.decoding import decode, decoded_shape, read_file
from fusseg.data.geometry import Fit, cut, resample, shared_shape
from fusseg.data.items import Item
from fusseg.data.scenes import SCENE_SHAPE, Scene, draw_scene
from fusseg.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""Files that are listed as images; what they are, their content tells."""

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")


def read_bytes(item: Item) -> bytes:
    """Read what identifies an image: its file, or the pixels of a scene.

    Raises:
        DataError: If the file is missing, empty, too large, or may not be read.
    """
    if isinstance(item.image, Scene):
        return draw_scene(item.image)[0].tobytes()
    return read_file(item.image, "image")


def load_image(item: Item) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image upright (EXIF), as RGB in [0, 255].

    Raises:
        DataError: If the file cannot be read, is broken, too large, or of a mode without RGB.
    """
    return pixels_of(item, read_bytes(item))


def pixels_of(item: Item, data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Turn what `read_bytes` returned into pixels, for callers that hash the bytes as well.

    Raises:
        DataError: As `load_image`.
    """
    if isinstance(item.image, Scene):
        pixels = np.frombuffer(data, np.uint8).reshape(*SCENE_SHAPE, 3).copy()
    else:
        pixels = _as_rgb(decode(data, "image", item.image), item.image)
    return pixels if item.crop is None else cut(pixels, item.crop.share)


def image_shape(item: Item) -> tuple[int, int]:
    """Height and width of an item's image, or of its crop, upright, without decoding it.

    Raises:
        DataError: As `source_shape`.
    """
    shape = source_shape(item)
    return shape if item.crop is None else shared_shape(shape, item.crop.share)


def source_shape(item: Item) -> tuple[int, int]:
    """Height and width of the whole image behind an item, upright, without decoding it.

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
    """Bring an image to a size, antialiased; unchanged where it has that size.

    Args:
        image: RGB in [0, 255].
        size: Height and width asked for.
        fit: `crop` keeps the aspect ratio and cuts off what is too long; `stretch` does not.
        interpolation: Resampling filter; `nearest` is the only one without antialiasing.
    """
    return resample(image, size, fit, _FILTERS[interpolation])


def _as_rgb(image: Image.Image, name: object) -> UInt8[np.ndarray, "height width 3"]:
    """Convert any mode that has a meaning as RGB; transparent pixels show white behind."""
    if image.mode.startswith("I"):
        return _from_16_bit(image, name)
    if image.mode == "F":
        raise DataError(
            f"image has floating-point pixels; save it with 8 or 16 bits per channel: {name}"
        )
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):
            image = image.convert(image.mode.upper())
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    elif image.mode not in _PLAIN:
        raise DataError(f"image has color mode {image.mode}; save it as RGB: {name}")
    # Pillow's conversion of what is RGB already takes ten times as long as the copy.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _from_16_bit(image: Image.Image, name: object) -> UInt8[np.ndarray, "height width 3"]:
    """Scale 16-bit gray, black 0 and white 65535, to 8 bits."""
    gray = np.asarray(image)
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65535:
        raise DataError(
            f"image has gray values from {low} to {high}, outside 0 to 65535; "
            f"save it with 8 or 16 bits: {name}"
        )
    narrow = ((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(narrow[:, :, None], 3, axis=2)
