"""Reading image files that nobody vouches for: everything wrong with them is a DataError."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from fusseg.errors import DataError

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
    with _undisturbed(), _blaming(kind, name):
        image = _open(data, kind, name)
        image.load()
        # after loading: a TIFF turns itself and drops the tag
        turn = _UPRIGHT.get(_orientation(image))
        return image if turn is None else image.transpose(turn)


def decoded_shape(data: bytes, kind: str, name: object) -> tuple[int, int]:
    """Height and width of what `decode` returns, from the header alone.

    Raises:
        DataError: If the header is broken or tells of too many pixels.
    """
    with _undisturbed(), _blaming(kind, name):
        image = _open(data, kind, name)
        width, height = image.size
        if isinstance(image, TiffImageFile):
            # some versions of Pillow give the upright size of a TIFF before loading, some do not
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if _orientation(image) >= 5 else (height, width)


def _open(data: bytes, kind: str, name: object) -> Image.Image:
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
def _blaming(kind: str, name: object) -> Iterator[None]:
    """Turn whatever the decoder raises into a DataError that names the file.

    Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError and more on
    broken files, so no shorter list would be complete.
    """
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{kind} is not a JPEG, PNG, TIFF, BMP or WebP file: {name}") from error
    except MemoryError as error:
        raise DataError(f"{kind} does not fit into memory: {name}") from error
    except Exception as error:
        raise DataError(f"{kind} is broken ({error}): {name}") from error


class _Quiet:
    """Pillow's warnings and its own limit of pixels, both off while any thread decodes.

    Both are settings of the process, so they are saved by the first thread that enters and
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
                Image.MAX_IMAGE_PIXELS = None
            self.threads += 1

    def leave(self) -> None:
        with self.lock:
            self.threads -= 1
            if self.threads == 0:
                self.saved.close()


_QUIET = _Quiet()


@contextmanager
def _undisturbed() -> Iterator[None]:
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()
