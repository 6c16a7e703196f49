"""TIFF files with layouts that Pillow refuses, reduces to 8 bits or reads incorrectly.

tifffile reads tags and layout. libtiff, through Pillow, decompresses the parts: it supports LZW,
which tifffile does not without further packages, and it never writes more than a part can hold,
whatever the compressed data contain.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from fusseg.core.errors import DataError
from fusseg.data.raster import Bands, Raster, turned

Answer = TypeVar("Answer")

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in both byte orders."""

_ORIENTATION, _FILL_ORDER = 274, 266
_PREMULTIPLIED, _STRAIGHT = 1, 2
"""Kinds of extra bands that are transparency."""
_SEPARATE = 2
"""Planar configuration in which each band has its own plane."""
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_KINDS = {_SIGNED: " (signed)", _FLOAT: " (floating point)"}
_GRAY = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)
_EXPANDED = (
    COMPRESSION.LZW,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.LZMA,
    COMPRESSION.ZSTD,
)
"""Compressions of plain bytes."""
_MOST_VALUES = 800_000_000
"""Largest number of pixels times bands of a page."""


@dataclass(frozen=True)
class TiffShape:
    """Size and orientation of the first page."""

    height: int
    width: int
    orientation: int


def read_shape(data: bytes) -> TiffShape | None:
    """Read the size of the first page; None if the tags cannot be read."""
    return _of_first_page(data, _shape_of)


def unread_layout(data: bytes) -> str | None:
    """Describe a layout of bands and bits that is not read; None if the tags cannot be read."""
    return _of_first_page(data, _unread)


def is_deep_or_transparent(path: Path) -> bool:
    """Tell whether the first page has more than 8 bits or transparency; True if unreadable."""
    answer = _of_first_page(path, lambda page: page.bitspersample > 8 or _may_have_alpha(page))
    return answer is None or answer


def read_tiff(data: bytes, name: object, max_pixels: int) -> Raster | None:
    """Read the first page, upright; None if Pillow has to read it.

    Args:
        data: The file's bytes.
        name: The file's name in errors.
        max_pixels: Pages with more pixels are left to Pillow, which refuses them.

    Raises:
        DataError: If it has too many bands, or a compression that is not read.
    """
    if not _of_first_page(data, lambda page: _is_ours(page, max_pixels)):
        return None
    with TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        assert isinstance(page, TiffPage)
        bands, premultiplied = _choose_bands(page, name)
        _check_compression(page, name)
        if int(np.prod(page.shaped)) > _MOST_VALUES:
            raise DataError(f"image has more than {_MOST_VALUES} values; cut it into parts: {name}")
        values = _read_bands(page)[:, :, bands]
        raster = Raster(
            values=values,
            largest=int(np.iinfo(values.dtype).max),
            inverted=page.photometric == PHOTOMETRIC.MINISWHITE,
            premultiplied=premultiplied,
        )
        return turned(raster, _shape_of(page).orientation)


def _of_first_page(source: bytes | Path, ask: Callable[[TiffPage], Answer]) -> Answer | None:
    try:
        with TiffFile(source if isinstance(source, Path) else io.BytesIO(source)) as file:
            page = file.pages.first
            return ask(page) if isinstance(page, TiffPage) else None
    except MemoryError:
        raise
    except Exception:  # damaged tags raise anything; Pillow reports what is wrong with them
        return None


def _may_have_alpha(page: TiffPage) -> bool:
    return bool(page.extrasamples) or page.samplesperpixel == 4


def _shape_of(page: TiffPage) -> TiffShape:
    turn = page.tags.valueof(_ORIENTATION, 1)
    return TiffShape(page.imagelength, page.imagewidth, turn if turn in range(1, 9) else 1)


def _describe(page: TiffPage) -> str:
    bands = "1 band" if page.samplesperpixel == 1 else f"{page.samplesperpixel} bands"
    return f"{bands} of {page.bitspersample} bits{_KINDS.get(page.sampleformat, '')}"


def _unread(page: TiffPage) -> str:
    verb = "is" if page.samplesperpixel == 1 else "are"
    return f"{_describe(page)} {verb} not read; save it as 8-bit RGB"


def _is_ours(page: TiffPage, max_pixels: int) -> bool:
    """Tell whether Pillow would refuse the page, reduce it to 8 bits or read it incorrectly."""
    if not 0 < page.imagelength * page.imagewidth <= max_pixels or page.imagedepth != 1:
        return False
    if page.sampleformat != _UNSIGNED or page.photometric not in (*_GRAY, PHOTOMETRIC.RGB):
        return False
    if page.bitspersample == 16:
        return True
    if page.bitspersample != 8:
        return False
    if page.photometric == PHOTOMETRIC.RGB and not _is_expanded(page):
        return False
    several, most = page.samplesperpixel > 1, 1 if page.photometric in _GRAY else 4
    return (
        (several and page.planarconfig == _SEPARATE)
        or page.samplesperpixel > most
        or _PREMULTIPLIED in page.extrasamples
        or (page.parent.is_bigtiff and page.parent.byteorder == ">")
    )


def _choose_bands(page: TiffPage, name: object) -> tuple[list[int], bool]:
    """Pick the color bands and then transparency, and tell whether colors are premultiplied."""
    number, kinds = page.samplesperpixel, [int(kind) for kind in page.extrasamples]
    if number == 4 and page.photometric == PHOTOMETRIC.RGB and not kinds:
        # By convention, an undeclared fourth band is transparency.
        kinds = [_STRAIGHT]
    extra = {number - len(kinds) + place: kind for place, kind in enumerate(kinds)}
    alphas = [band for band, kind in extra.items() if kind in (_PREMULTIPLIED, _STRAIGHT)]
    colors = [band for band in range(number) if band not in alphas]
    if page.photometric == PHOTOMETRIC.RGB:
        colors = colors[:3]
    elif len(colors) in (3, 4):
        # GDAL declares 16-bit RGB as gray with extra bands.
        colors = colors[:3]
    if len(colors) not in (1, 3) or (page.photometric == PHOTOMETRIC.RGB and len(colors) != 3):
        raise DataError(f"image: {_unread(page)}: {name}")
    return colors + alphas[:1], bool(alphas) and extra[alphas[0]] == _PREMULTIPLIED


def _is_expanded(page: TiffPage) -> bool:
    return page.compression == COMPRESSION.NONE or page.compression in _EXPANDED


def _check_compression(page: TiffPage, name: object) -> None:
    if not _is_expanded(page):
        kind = getattr(page.compression, "name", page.compression)
        raise DataError(
            f"image: compression {kind} of {_describe(page)} is not read; save it as uncompressed "
            f"or deflate: {name}"
        )


def _read_bands(page: TiffPage) -> Bands:
    """Read all bands of a page, in whatever order and parts they are stored."""
    if page.compression == COMPRESSION.NONE:
        stored = page.asarray().reshape(page.shaped)
    else:
        stored = _read_compressed(page)
    planes, _, height, width, samples = page.shaped
    # Bands are either planes or adjacent samples: the other number is 1.
    values = stored[:, 0].transpose(1, 2, 0, 3).reshape(height, width, planes * samples)
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))


def _read_compressed(page: TiffPage) -> np.ndarray:
    assert page.dtype is not None
    compression, fill_order = int(page.compression), int(page.fillorder)
    # From here on, tifffile gets parts that are already decompressed.
    page.compression, page.fillorder = COMPRESSION.NONE, type(page.fillorder)(1)
    stored = np.zeros(page.shaped, page.dtype)
    height, width = page.shaped[2:4]
    parts = page.parent.filehandle.read_segments(page.dataoffsets, page.databytecounts)
    for part, index in parts:
        assert isinstance(index, int)
        # Parts with nothing but zeros may be missing.
        if not isinstance(part, bytes):
            continue
        size = _part_bytes(page, index)
        expanded = _expand(part, size, compression, fill_order)
        values, (plane, _, row, column, _), _ = page.decode(expanded, index)
        if values is None:
            continue
        rows, columns = min(values.shape[1], height - row), min(values.shape[2], width - column)
        stored[plane, 0, row : row + rows, column : column + columns] = values[0, :rows, :columns]
    return stored


def _part_bytes(page: TiffPage, index: int) -> int:
    """Count the bytes of a decompressed strip or tile."""
    assert page.dtype is not None
    samples, height, width = page.shaped[4], page.shaped[2], page.shaped[3]
    if page.is_tiled:
        pixels = page.tilelength * page.tilewidth
    else:
        rows = min(page.rowsperstrip, height)
        first = index % -(-height // rows) * rows
        pixels = min(rows, height - first) * width
    return pixels * samples * page.dtype.itemsize


def _expand(part: bytes, size: int, compression: int, fill_order: int) -> bytes:
    """Decompress bytes by wrapping them as the only row of an 8-bit gray TIFF.

    Raises:
        OSError: If the bytes are damaged, or libtiff was built without the compression.
    """
    tags = (
        (256, size),
        (257, 1),
        (258, 8),
        (259, compression),
        (262, 1),
        (_FILL_ORDER, fill_order),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(part)),
    )
    place = 8 + len(part) + len(part) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    row = b"II*\0" + struct.pack("<I", place) + part + b"\0" * (len(part) % 2) + directory
    with Image.open(io.BytesIO(row), formats=("TIFF",)) as image:
        return image.tobytes()
