"""Replacing each training image by five crops; pixels are cut out when they are loaded."""

from collections.abc import Sequence
from dataclasses import replace

from fusseg.config.schema import Crops
from fusseg.data.items import Crop, Item

CROPS: dict[Crops, tuple[Crop, ...]] = {
    "none": (),
    "five": (
        Crop("top-left", (0.0, 0.0, 0.5, 0.5)),
        Crop("top-right", (0.5, 0.0, 1.0, 0.5)),
        Crop("bottom-left", (0.0, 0.5, 0.5, 1.0)),
        Crop("bottom-right", (0.5, 0.5, 1.0, 1.0)),
        Crop("center", (0.25, 0.25, 0.75, 0.75)),
    ),
}
"""Crops that replace an image, by the value of `data.crops`."""


def cut_up(items: Sequence[Item], crops: Crops) -> tuple[Item, ...]:
    """Replace each image by its crops, which stay with its client; `none` leaves it whole.

    Examples:
        >>> from pathlib import Path
        >>> [item.stem for item in cut_up([Item("yard", "7", "", Path("7.png"))], "five")]
        ['7#top-left', '7#top-right', '7#bottom-left', '7#bottom-right', '7#center']
    """
    if not CROPS[crops]:
        return tuple(items)
    return tuple(
        replace(item, stem=f"{item.stem}#{crop.name}", crop=crop)
        for item in items
        for crop in CROPS[crops]
    )
