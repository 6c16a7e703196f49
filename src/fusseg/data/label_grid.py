"""The class of each position of a feature map, from the labeled pixels that lie in it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from fusseg.data.geometry import Fit, source_box

NO_LABEL = -1
"""Class of a position without a labeled pixel."""


@dataclass(frozen=True)
class LabeledPixels:
    """Some pixels of an image with their classes: of a mask, of scribbles, of clicks."""

    shape: tuple[int, int]
    """Height and width of the image."""
    rows: Int64[np.ndarray, " pixels"]
    columns: Int64[np.ndarray, " pixels"]
    classes: Int64[np.ndarray, " pixels"]


@dataclass(frozen=True)
class Grid:
    """A feature map, and the part of an image that it shows."""

    shape: tuple[int, int]
    """Rows and columns of positions."""
    image_size: tuple[int, int]
    """Height and width to which the image is resized for it."""
    fit: Fit
    """What of the image is resized, as in `data.fit`."""


def pixels_of_mask(mask: UInt8[np.ndarray, "height width"], ignored: int | None) -> LabeledPixels:
    """List the labeled pixels of a mask.

    Args:
        mask: Class index of each pixel.
        ignored: Index of pixels without a label; None: all have one.
    """
    rows, columns = np.nonzero(np.ones_like(mask) if ignored is None else mask != ignored)
    return LabeledPixels(
        (mask.shape[0], mask.shape[1]), rows, columns, mask[rows, columns].astype(np.int64)
    )


def label_positions(
    pixels: LabeledPixels, grid: Grid, num_classes: int
) -> Int64[np.ndarray, "rows columns"]:
    """Give each position the class that most of its labeled pixels have, the lowest in a tie.

    Every labeled pixel counts, also where the image is shrunk for the backbone: a single click is
    a label. A pixel larger than a position labels all positions whose centers lie in it.

    >>> one = LabeledPixels((4, 4), np.array([3]), np.array([0]), np.array([1]))
    >>> label_positions(one, Grid((2, 2), (16, 16), "crop"), num_classes=2)
    array([[-1, -1],
           [ 1, -1]])

    Args:
        pixels: Labeled pixels of the image.
        grid: The feature map.
        num_classes: Number of classes, C.

    Returns:
        Class of each position, or `NO_LABEL`.
    """
    left, top, right, bottom = source_box(pixels.shape, grid.image_size, grid.fit)
    height, width = grid.shape
    # Split, so that no pixel is larger than a position.
    splits = [
        max(1, int(np.ceil(positions / side)))
        for positions, side in ((height, bottom - top), (width, right - left))
    ]
    rows, columns, classes = _split(pixels, splits[0], splits[1])
    rows = np.floor((rows - top) / (bottom - top) * height).astype(np.int64)
    columns = np.floor((columns - left) / (right - left) * width).astype(np.int64)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = (rows[inside] * width + columns[inside]) * num_classes + classes[inside]
    counts = np.bincount(places, minlength=height * width * num_classes)
    counts = counts.reshape(height, width, num_classes)
    return np.where(counts.any(axis=2), counts.argmax(axis=2), NO_LABEL)


def _split(
    pixels: LabeledPixels, down: int, across: int
) -> tuple[np.ndarray, np.ndarray, Int64[np.ndarray, " parts"]]:
    """Compute the centers of equal parts of each pixel, in pixels, with their classes."""
    in_rows = (np.arange(down) + 0.5) / down
    in_columns = (np.arange(across) + 0.5) / across
    rows = pixels.rows[:, None, None] + in_rows[None, :, None]
    columns = pixels.columns[:, None, None] + in_columns[None, None, :]
    shape = (len(pixels.rows), down, across)
    classes = np.broadcast_to(pixels.classes[:, None, None], shape)
    return (
        np.broadcast_to(rows, shape).ravel(),
        np.broadcast_to(columns, shape).ravel(),
        classes.ravel(),
    )
