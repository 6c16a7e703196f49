"""Single labeled pixels: a table with the columns stem, x, y and class, as people click them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusseg.core.errors import DataError
from fusseg.data.images import image_shape
from fusseg.data.items import Item
from fusseg.data.label_grid import LabeledPixels
from fusseg.data.tables import TableRow, read_table

KIND = "table of clicks"
COLUMNS = ("stem", "x", "y", "class")


@dataclass(frozen=True)
class Click:
    """A labeled pixel of an image."""

    line: int
    """Line of the table."""
    x: int
    """Column of the pixel, from 0 at the left."""
    y: int
    """Row of the pixel, from 0 at the top."""
    name: str
    """Name of its class."""


def read_clicks(path: Path) -> dict[str, list[Click]]:
    """Read the clicks of each image, by its stem.

    Raises:
        DataError: If the table cannot be read or is empty, a coordinate is not a whole number from
            0, or a stem or class is empty.
    """
    clicks: dict[str, list[Click]] = defaultdict(list)
    for row in read_table(path, KIND, COLUMNS):
        stem, name = row.cells["stem"], row.cells["class"]
        if not stem or not name:
            empty = "class" if stem else "stem"
            raise DataError(f"line {row.line} of the {KIND} has no {empty}: {path}")
        x, y = (_coordinate(row, column, path) for column in ("x", "y"))
        clicks[stem].append(Click(row.line, x, y, name))
    if not clicks:
        raise DataError(f"the {KIND} has no click, expected one per line: {path}")
    return dict(clicks)


def classes_of_clicks(clicks: Mapping[str, Sequence[Click]]) -> tuple[str, ...]:
    """List the names of the clicked classes, sorted."""
    return tuple(sorted({click.name for found in clicks.values() for click in found}))


def pixels_of_clicks(
    clicks: Sequence[Click], item: Item, classes: Sequence[str], path: Path
) -> LabeledPixels:
    """Place the clicks of one image.

    Args:
        clicks: Clicks of the image.
        item: The image.
        classes: Names of all clicked classes.
        path: The table, for messages.

    Raises:
        DataError: If a click lies outside of the image, or the image cannot be read.
    """
    height, width = image_shape(item)
    for click in clicks:
        if click.x >= width or click.y >= height:
            raise DataError(
                f"line {click.line} of the {KIND} clicks at x {click.x}, y {click.y}, but image "
                f"{item.stem!r} has {width} x {height} pixels: {path}"
            )
    return LabeledPixels(
        (height, width),
        np.array([click.y for click in clicks], np.int64),
        np.array([click.x for click in clicks], np.int64),
        np.array([classes.index(click.name) for click in clicks], np.int64),
    )


def _coordinate(row: TableRow, column: str, path: Path) -> int:
    text = row.cells[column]
    if not text.isascii() or not text.isdigit():
        raise DataError(
            f"line {row.line} of the {KIND} has {column} {text!r}; write the pixel as a whole "
            f"number from 0: {path}"
        )
    return int(text)
