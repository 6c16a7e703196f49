"""Reading untrusted image files: every fault in them becomes a DataError."""

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
        kind: Its name in errors: image or mask.

    Raises:
        DataError: If it is missing, empty, too large, not a regular file, or cannot be read.
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
    """Decode the first frame in its own mode, turned upright by its EXIF orientation.

    An unreadable EXIF block counts as no orientation, as in browsers.

    Args:
        data: The file's bytes.
        kind: Its name in errors: image or mask.
        name: The file's name in errors.

    Raises:
        DataError: If it is in none of the formats, broken, truncated or too large.
    """
    with _undisturbed(), _blaming(kind, name, data):
        return _decode(data, kind, name)


def decode_raster(data: bytes, name: object) -> Raster:
    """Decode the first frame of an image, upright, with all stored bits.

    Raises:
        DataError: As `decode`, or if its color mode cannot be converted to RGB.
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
    """Return height and width of the result of `decode`, from the header alone.

    Raises:
        DataError: If the header is broken or declares too many pixels.
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
            # Before loading, only some versions of Pillow give the upright size of a TIFF.
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_orientation(data: bytes, kind: str, name: object) -> int:
    """Return the EXIF orientation that `decode` applies, from the header alone.

    1 is upright; 5 to 8 exchange height and width.

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
    """Tell from its header whether a file holds more than 8-bit colors: more bits, or transparency.

    Raises:
        DataError: If it cannot be read.
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
"""Raw modes that give the high and the low bytes, or both, by the color type of a 16-bit PNG."""


def _decode(data: bytes, kind: str, name: object, raw_mode: str | None = None) -> Image.Image:
    image = _open(data, kind, name)
    if raw_mode is not None:
        image.tile = [_with_raw_mode(tile, raw_mode) for tile in image.tile]
    image.load()
    # After loading, because Pillow turns a TIFF itself then and removes the tag.
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _raster_of(image: Image.Image, name: object) -> Raster:
    """Convert an image that Pillow decoded, in any mode that can be converted to RGB."""
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
    # Converting an image that is RGB already takes Pillow ten times as long as copying it.
    return Raster(np.array(image if image.mode == "RGB" else image.convert("RGB")), 255)


def _is_deep_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG") and len(data) > 25 and data[24] == 16 and data[25] != 0


def _deep_png(data: bytes, name: object) -> Raster:
    """Read a 16-bit PNG with several bands, of which Pillow keeps only the high bytes.

    Pillow's decoder undoes the filters of the rows by the number of bits of the raw mode. It keeps
    the high bytes in big-endian modes, and in little-endian modes the bytes that are really low.
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
            f"scale it down or cut it into parts: {name}"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # corrupt EXIF raises anything; the pixels are still good
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


@contextmanager
def _blaming(kind: str, name: object, data: bytes) -> Iterator[None]:
    """Turn every exception of the decoder into a DataError that names the file.

    On broken files, Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError
    and others, so no list of exceptions would be complete.
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
    """Switches off the decoders' own messages and Pillow's pixel limit while any thread decodes.

    These settings belong to the process: the first thread that enters saves them, and the last one
    that leaves restores them. `warnings.catch_warnings` alone is not safe with threads.
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
    """Keep libtiff from writing to standard error: its lines name no file, and our errors do.

    libtiff is found through the Pillow module that is linked to it. If it is linked statically, it
    cannot be silenced.
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
