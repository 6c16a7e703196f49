"""Checking that EXIF orientations turn an image and its mask in the same way."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.data.decoding import decoded_shape, read_file, read_orientation
from fusseg.data.findings import Finding, counted, item_name
from fusseg.data.images import source_shape
from fusseg.data.items import Item, Source

_LYING = 5
"""The least EXIF orientation that swaps height and width."""


def explain_misfit(item: Item, shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> str:
    """Explain a mask that does not fit because only one of the two is turned; otherwise empty.

    Args:
        item: Image and mask.
        shape: Height and width of the image, upright.
        mask_shape: Height and width of the mask, upright.

    Raises:
        DataError: If a header cannot be read.
    """
    image_turn, mask_turn = _turns(item)
    if mask_shape != shape[::-1] or (image_turn >= _LYING) == (mask_turn >= _LYING):
        return ""
    if image_turn >= _LYING:
        return (
            f"; the image is turned upright by its EXIF orientation {image_turn}, the mask is not "
            "turned and fits the image as stored; turn the mask in the same way, or save the image "
            "without the tag"
        )
    return (
        f"; the mask is turned by its EXIF orientation {mask_turn}, the image is not; save the "
        "mask without the tag"
    )


def find_turned(items: Iterable[Item]) -> Iterator[Finding]:
    """Warn, once per site, of images and masks of which only one is turned; nothing is raised.

    Args:
        items: Items; those without a mask are skipped.
    """
    doubts: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        with suppress(DataError):  # reported where the file is read
            text = _doubt(item)
            if text:
                doubts[item.site, text].append(item)
    for (_, text), found in doubts.items():
        height, width = source_shape(found[0])
        more = (
            f"; the same in {counted(len(found) - 1, 'more image')} of this site"
            if found[1:]
            else ""
        )
        yield Finding(
            "warning",
            item_name(found[0]),
            f"{text} (both are {height} x {width}){more}: {found[0].mask}",
        )


def _doubt(item: Item) -> str:
    """Say which of the two is turned; empty if both are, if neither is, or if they do not fit."""
    image_turn, mask_turn = _turns(item)
    shape = source_shape(item)
    if image_turn == mask_turn or not isinstance(item.mask, Path):
        return ""
    if decoded_shape(read_file(item.mask, "mask"), "mask", item.mask) != shape:
        return ""
    swapped = (image_turn >= _LYING) != (mask_turn >= _LYING) and shape[0] != shape[1]
    if mask_turn == 1:
        said = f"the image is turned upright by its EXIF orientation {image_turn}, the mask is not"
        told = "the mask has the size of the turned image, so it is assumed to be drawn on it"
    elif image_turn == 1:
        said = f"the mask is turned by its EXIF orientation {mask_turn}, the image is not"
        told = "the mask fits only when turned"
    else:
        said = (
            f"the image is turned by its EXIF orientation {image_turn}, the mask by its own, "
            f"{mask_turn}"
        )
        told = "the mask fits only this way"
    if swapped:
        return f"{said}; {told}; if this is wrong, save both upright, without the tag"
    return (
        f"{said}; their sizes are equal with and without turning, so it is unclear whether the "
        "mask was drawn on the turned image, which is assumed; look at one, and save both upright, "
        "without the tag"
    )


def _turns(item: Item) -> tuple[int, int]:
    """Read the EXIF orientations of image and mask."""
    return _turn(item.image, "image"), _turn(item.mask, "mask")


def _turn(source: Source | None, kind: str) -> int:
    if not isinstance(source, Path):
        return 1
    return read_orientation(read_file(source, kind), kind, source)
