"""Reading image files that nobody vouches for: everything wrong with them is a DataError."""

import ctypes
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, _imaging
from PIL.TiffImagePlugin import TiffImageFile

from fusseg.core.errors import DataError
from fusseg.data.raster import Raster, from_integers
from fusseg.data.tiff import MAGIC, is_deep_or_transparent, read_shape, read_tiff, unread_layout

MAX_PIXELS = 200_000_000
"""Images with more pixels are refused before they are decoded."""
MAX_BYTES = 4 * 2**30
"""Larger files are refused before they are read."""
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def read_file(path: Path, kind: str) -> bytes:
    """Read all bytes of a file.

    Args:
        path: The file.
        kind: What it is called in errors: image or mask.

    Raises:
        DataError: If it is missing, empty, too large, no regular file, or may not be read.
    """
    try:
        if path.is_dir():
            raise DataError(f"{kind} is a folder: {path}")
        if path.exists() and not path.is_file():
            raise DataError(f"{kind} is not a regular file: {path}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{kind} has {size} bytes, more than {MAX_BYTES}: {path}")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{kind} cannot be read ({error.strerror}): {path}") from error
    if not data:
        raise DataError(f"{kind} is empty (0 bytes): {path}")
    return data


def decode(data: bytes, kind: str, name: object) -> Image.Image:
    """Decode the first frame, in its own mode, turned as its EXIF orientation says.

    An unreadable EXIF block counts as no orientation, as in browsers.

    Args:
        data: The file's bytes.
        kind: What it is called in errors: image or mask.
        name: The file's name in errors.

    Raises:
        DataError: If it is in none of the formats, broken, truncated or too large.
    """
    with _undisturbed(), _blaming(kind, name, data):
        return _decode(data, kind, name)


def decode_raster(data: bytes, name: object) -> Raster:
    """Decode the first frame of an image, upright, with all bits that are stored.

    Raises:
        DataError: As `decode`, or if it is of a mode without RGB.
    """
    with _undisturbed(), _blaming("image", name, data):
        if data.startswith(MAGIC):
            raster = read_tiff(data, name, MAX_PIXELS)
            if raster is not None:
                return raster
        if _is_deep_png(data):
            return _deep_png(data, name)
        return _raster_of(_decode(data, "image", name), name)


def decoded_shape(data: bytes, kind: str, name: object) -> tuple[int, int]:
    """Height and width of what `decode` returns, from the header alone.

    Raises:
        DataError: If the header is broken or tells of too many pixels.
    """
    with _undisturbed(), _blaming(kind, name, data):
        try:
            image = _open(data, kind, name)
        except UnidentifiedImageError:
            shape = read_shape(data) if data.startswith(MAGIC) else None
            if shape is None or shape.height * shape.width > MAX_PIXELS:
                raise
            turned = shape.orientation >= 5
            return (shape.width, shape.height) if turned else (shape.height, shape.width)
        width, height = image.size
        if isinstance(image, TiffImageFile):
            # some versions of Pillow give the upright size of a TIFF before loading, some do not
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_orientation(data: bytes, kind: str, name: object) -> int:
    """EXIF orientation that `decode` turns by, from the header alone; 1 is upright, 5 to 8 lie.

    Raises:
        DataError: As `decoded_shape`.
    """
    with _undisturbed(), _blaming(kind, name, data):
        try:
            return _orientation(_open(data, kind, name))
        except UnidentifiedImageError:
            shape = read_shape(data) if data.startswith(MAGIC) else None
            if shape is None:
                raise
            return shape.orientation


def holds_more(path: Path) -> bool:
    """Whether a file holds more than 8-bit colors, as far as its header tells; else it is plain.

    Raises:
        DataError: If it may not be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(26)
    except OSError as error:
        raise DataError(f"image cannot be read ({error.strerror}): {path}") from error
    if start.startswith(b"\x89PNG") and len(start) == 26:
        return start[24] == 16 or start[25] in (4, 6)
    with _undisturbed():
        return start.startswith(MAGIC) and is_deep_or_transparent(path)


_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_PLAIN = ("1", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_DEEP_PNG = {2: ("RGB;16B", "RGB;16L"), 4: ("RGBA",), 6: ("RGBA;16B", "RGBA;16L")}
"""By color type of a 16-bit PNG: raw modes that give the high bytes and the low bytes, or both."""


def _decode(data: bytes, kind: str, name: object, raw_mode: str | None = None) -> Image.Image:
    image = _open(data, kind, name)
    if raw_mode is not None:
        image.tile = [_with_raw_mode(tile, raw_mode) for tile in image.tile]
    image.load()
    # after loading: a TIFF turns itself and drops the tag
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _raster_of(image: Image.Image, name: object) -> Raster:
    """Take what Pillow decoded, in any mode that has a meaning as RGB."""
    if image.mode.startswith("I"):
        is_12_bit = isinstance(image, TiffImageFile) and image.tag_v2.get(258) == (12,)
        return from_integers(np.asarray(image), name, 4095 if is_12_bit else 65535)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        premultiplied = image.mode in ("La", "RGBa")
        if not premultiplied:
            image = image.convert("LA" if image.mode == "LA" else "RGBA")
        return Raster(np.array(image), 255, premultiplied=premultiplied)
    if image.mode == "L":
        return Raster(np.array(image)[:, :, None], 255)
    if image.mode == "F":
        raise UnidentifiedImageError
    if image.mode not in _PLAIN:
        raise DataError(f"image has color mode {image.mode}; save it as RGB: {name}")
    # Pillow's conversion of what is RGB already takes ten times as long as the copy.
    return Raster(np.array(image if image.mode == "RGB" else image.convert("RGB")), 255)


def _is_deep_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG") and len(data) > 25 and data[24] == 16 and data[25] != 0


def _deep_png(data: bytes, name: object) -> Raster:
    """Read a 16-bit PNG with several bands, of which Pillow keeps the high bytes only.

    Its decoder undoes the filters of the rows by the number of bits of the raw mode, and takes the
    high bytes of big-endian values, or the low ones, which are the high ones of little-endian.
    """
    images = [_decode(data, "image", name, mode) for mode in _DEEP_PNG[data[25]]]
    parts = [np.asarray(image).astype(np.uint16) for image in images]
    if len(parts) == 1:
        parts = [parts[0][:, :, 0::2], parts[0][:, :, 1::2]]
    values = parts[0] << 8 | parts[1]
    key = images[0].info.get("transparency")
    if key is not None and data[25] == 2:
        visible = (values != np.array(key, np.uint16)).any(axis=2, keepdims=True)
        values = np.concatenate([values, visible * np.uint16(65535)], axis=2)
    return Raster(values, 65535)


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:  # noqa: ANN401 - a class of Pillow's own
    # A plain tuple in older versions of Pillow.
    return tile._replace(args=raw_mode) if hasattr(tile, "_replace") else (*tile[:3], raw_mode)


def _open(data: bytes, kind: str, name: object) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{kind} has {width} x {height} pixels, more than {MAX_PIXELS} in all; "
            f"scale it down or cut it up: {name}"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # corrupt EXIF raises anything; the pixels are still good
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


@contextmanager
def _blaming(kind: str, name: object, data: bytes) -> Iterator[None]:
    """Turn whatever the decoder raises into a DataError that names the file.

    Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError and more on
    broken files, so no shorter list would be complete.
    """
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        layout = unread_layout(data) if data.startswith(MAGIC) else None
        if layout is not None:
            raise DataError(f"{kind}: {layout}: {name}") from error
        raise DataError(f"{kind} is not a JPEG, PNG, TIFF, BMP or WebP file: {name}") from error
    except MemoryError as error:
        raise DataError(f"{kind} does not fit into memory: {name}") from error
    except Exception as error:
        raise DataError(f"{kind} is broken ({error}): {name}") from error


class _Quiet:
    """What decoders say of their own, and Pillow's limit of pixels: off while any thread decodes.

    All are settings of the process, so they are saved by the first thread that enters and
    restored by the last that leaves; `warnings.catch_warnings` alone is not safe with threads.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads = 0
        self.saved = ExitStack()

    def enter(self) -> None:
        with self.lock:
            if self.threads == 0:
                self.saved.enter_context(warnings.catch_warnings())
                self.saved.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                warnings.filterwarnings("ignore", module=r"PIL\.")
                log = logging.getLogger("tifffile")
                self.saved.callback(setattr, log, "disabled", log.disabled)
                log.disabled = True
                Image.MAX_IMAGE_PIXELS = None
            self.threads += 1

    def leave(self) -> None:
        with self.lock:
            self.threads -= 1
            if self.threads == 0:
                self.saved.close()


_QUIET = _Quiet()


def _silence_libtiff() -> None:
    """Keep libtiff from writing to the standard error: its lines name no file, and errors do.

    Found through the module of Pillow that is linked to it; where it is linked in statically, its
    lines stay.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


_silence_libtiff()


@contextmanager
def _undisturbed() -> Iterator[None]:
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()
