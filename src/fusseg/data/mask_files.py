"""Mask files: names of masks and their folders, and pixel values as stored."""

import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from fusseg.core.errors import DataError
from fusseg.data.decoding import decode, read_file
from fusseg.data.folders import files_by_stem
from fusseg.data.tiff import MAGIC

SUFFIXES = (".png", ".tif", ".tiff")
"""Suffixes of masks."""
LOSSY_SUFFIXES = (".jpg", ".jpeg")
"""Suffixes of files that are listed as masks if there is no better one, and refused when read."""

# Otherwise its messages about broken files, which do not name the file, go to standard error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_LOSSLESS = {
    COMPRESSION.NONE,
    COMPRESSION.CCITTRLE,
    COMPRESSION.CCITT_T4,
    COMPRESSION.CCITT_T6,
    COMPRESSION.LZW,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.LZMA,
    COMPRESSION.ZSTD,
}
_GRAY_OR_PALETTE = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE)
_NO_MASK_OF_ITS_OWN = 1 | 4
"""Bits of the tag NewSubfileType: a smaller copy, or the transparency of another page."""
_STEP = {2: 85, 4: 17}
"""Factor by which Pillow multiplies gray values of 2 and of 4 bits."""
_REMEDY = "store the class index of each pixel in one channel of at most 8 bits, as a PNG"

_FOLDERS = frozenset(
    (
        *("mask", "masks", "label", "labels", "annotation", "annotations", "gt", "gts"),
        *("segmentation", "segmentations", "segmentationclass", "segmentationclassaug"),
        *("segmentationobject", "groundtruth", "groundtruths", "gtfine", "gtcoarse"),
        *("stuffthingmaps", "panoptic", "semantic", "labelmaps"),
    )
)
_FOLDER_ENDING = re.compile(r"(masks?|labels?|annot|annotations?|[ ._-](gt|seg))$")
_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "jpgs", "rgb"))
_NO_INDICES = ("object", "instance", "panoptic", "color")

ENDINGS = (
    *("_mask", "-mask", ".mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt"),
    *("_groundtruth", "_annotation", "_L", "_P", "_color_mask"),
)
"""What may follow the stem of an image in the name of its mask."""


def is_masks_folder(name: str) -> bool:
    """Tell whether a folder of this name holds labels.

    Examples:
        >>> [is_masks_folder(name) for name in ("SegmentationClass", "train_masks", "photos")]
        [True, True, False]
    """
    lower = name.lower()
    plain = re.sub(r"[^a-z0-9]", "", lower)
    return plain in _FOLDERS or _FOLDER_ENDING.search(lower) is not None


def is_images_folder(name: str) -> bool:
    """Tell whether a folder of this name holds images beside a folder of masks."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in _IMAGE_FOLDERS


def are_no_class_indices(names: Sequence[str]) -> bool:
    """Tell whether masks in folders of these names hold numbers of objects, or display colors."""
    return any(word in name.lower() for name in names[-3:] for word in _NO_INDICES)


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """Map stems to masks; empty if there is no folder.

    A JPEG is listed only if no PNG or TIFF has its stem. It is refused when it is read; if it were
    not listed, its image would count as one without a mask.

    Raises:
        DataError: If two files share a stem, or a name is not valid UTF-8.
    """
    return files_by_stem(folder, LOSSY_SUFFIXES) | files_by_stem(folder, SUFFIXES)


def read_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """Read the values of a mask as stored, turned upright by its EXIF orientation.

    Gray values of 1, 2 and 4 bits are 0 to 1, 3 and 15; values of a palette are its indices.

    Raises:
        DataError: If it cannot be read, is broken, is in a format that changes values (JPEG, WebP),
            or does not have one value of at most 8 bits per pixel.
    """
    data = read_file(path, "mask")
    if data.startswith(b"\xff\xd8\xff") or (data[:4], data[8:12]) == (b"RIFF", b"WEBP"):
        kind = "WebP" if data.startswith(b"RIFF") else "JPEG"
        raise DataError(
            f"mask is a {kind} file, a format that changes the values of pixels, here the classes; "
            "export a PNG from the program in which the mask was drawn (a converted "
            f"{kind} has wrong values): {path}"
        )
    if data.startswith(MAGIC):
        bits = _check_tiff(data, path)
    else:
        # In a PNG, the number of bits and the color type (0: gray) are at a fixed position.
        bits = data[24] if data.startswith(b"\x89PNG") and data[25:26] == b"\0" else 8
    image = decode(data, "mask", path)
    if image.mode not in ("1", "L", "P"):
        raise DataError(f"mask has {_describe(image)}; {_REMEDY}: {path}")
    values = np.array(image).astype(np.uint8)
    return values // np.uint8(_STEP[bits]) if image.mode == "L" and bits in _STEP else values


def _check_tiff(data: bytes, path: Path) -> int:
    """Refuse a TIFF that does not hold class indices unchanged; return the bits per pixel."""
    try:
        with TiffFile(io.BytesIO(data)) as file:
            pages = [file.pages.first, *(page.aspage() for page in file.pages[1:])]
    except Exception as error:  # tifffile raises struct.error, IndexError and more
        raise DataError(
            f"mask is a broken TIFF, its pages cannot be read; export it again: {path}"
        ) from error
    own = [page for page in pages if not page.subfiletype & _NO_MASK_OF_ITS_OWN]
    if len(own) > 1:
        raise DataError(
            f"mask has {len(own)} pages, and it is unclear which one holds the classes; "
            f"{_REMEDY}: {path}"
        )
    page = pages[0]
    if page.compression not in _LOSSLESS:
        raise DataError(
            f"mask is a TIFF compressed with {_name(page)}, which may change the values of "
            "pixels, here the classes; export it again without compression, with LZW, deflate or "
            f"packbits, or as a PNG: {path}"
        )
    if page.samplesperpixel == 1 and page.photometric not in _GRAY_OR_PALETTE:
        raise DataError(
            "mask is a TIFF in which 0 is white, so it is unclear whether 0 is the first class or "
            f"the last; {_REMEDY}: {path}"
        )
    return int(page.bitspersample)


def _name(page: TiffPage) -> str:
    known = page.compression in set(COMPRESSION)
    return COMPRESSION(page.compression).name if known else f"method {page.compression}"


def _describe(image: Image.Image) -> str:
    if image.mode == "F":
        return "floating-point pixels"
    if image.mode.startswith("I"):
        low, high = image.getextrema()
        return f"more than 8 bits in a pixel (values {low} to {high})"
    return f"several channels ({', '.join(image.getbands())})"
