"""Masks and their classes: read only in evaluation, and to draw a Dirichlet partition."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.geometry import Fit, cut, resample
from fusseg.data.images import source_shape
from fusseg.data.items import NO_CLASS, Classes, Item
from fusseg.data.mask_files import read_mask
from fusseg.data.mask_turns import explain_misfit
from fusseg.data.mask_values import IGNORED, SeenValues, see_values
from fusseg.data.synthetic.scenes import Scene, draw_scene


def load_mask(item: Item, classes: Classes) -> UInt8[np.ndarray, "height width"]:
    """Read the class index of every pixel.

    Raises:
        DataError: If there is no mask, it is broken, it does not fit its image, or a value is
            neither a class nor ignored.
    """
    mask = read_values(item)
    shape = source_shape(item)
    if mask.shape != shape:
        raise DataError(
            f"mask of shape {mask.shape} does not fit its image of shape {shape}"
            f"{explain_misfit(item, shape, mask.shape)}: {item.mask}"
        )
    return _class_indices(mask, item, classes)


def count_classes(item: Item, classes: Classes) -> Int64[np.ndarray, " classes"]:
    """Count the pixels of each class in a mask, without ignored ones; the image is not read.

    Raises:
        DataError: If there is no mask, it is broken, or a value is neither a class nor ignored.
    """
    mask = _class_indices(read_values(item), item, classes)
    counts = np.bincount(mask.ravel(), minlength=256)[: len(classes.names)]
    return counts.astype(np.int64)


def _class_indices(
    mask: UInt8[np.ndarray, "height width"], item: Item, classes: Classes
) -> UInt8[np.ndarray, "part_height part_width"]:
    """Check the values, turn them into class indices, and cut out the item's crop."""
    check_values(mask, classes, item.mask)
    if classes.index_of is not None:
        mask = np.array(classes.index_of)[mask].astype(np.uint8)
    return mask if item.crop is None else cut(mask, item.crop.share)


def fit_mask(
    mask: UInt8[np.ndarray, "height width"], size: tuple[int, int], fit: Fit
) -> UInt8[np.ndarray, "fitted_height fitted_width"]:
    """Resize a mask by the nearest pixel, aligned with `fit_image`."""
    return resample(mask, size, fit, Image.Resampling.NEAREST)


def infer_classes(items: Iterable[Item]) -> Classes:
    """Infer the classes 0 to the largest value in some masks; 255 is ignored.

    Args:
        items: Items; those without a mask are skipped.

    Raises:
        DataError: If a mask cannot be read, there is no mask, or the values cannot be classes.
    """
    return classes_of(see_values((item.mask, read_values(item)) for item in items if item.mask))


def classes_of(seen: SeenValues) -> Classes:
    """Infer the classes 0 to the largest value except 255, which is ignored.

    Raises:
        DataError: If there is no value, only one besides 255, or some cannot be classes
            (`fusseg.data.mask_values.find_blends`).
    """
    values = sorted(seen.counts.values - {IGNORED})
    if not seen.first:
        raise DataError("no mask to infer the classes from; add a classes.toml")
    if IGNORED in seen.first and len(values) < 2:
        shown, other = (f"{values[0]} and 255", int(values[0] == 0)) if values else ("255", 1)
        raise DataError(
            f"masks hold no values but {shown}, and 255 is ignored without a classes.toml, which "
            f"leaves {len(values)} to score; write a classes.toml with names and values = "
            f"{[*values, IGNORED]}, or with ignore_index = 255 if it should be ignored, or store "
            f"class indices ({other} in place of 255): {seen.first[IGNORED]}"
        )
    blends = seen.blends()
    if blends:
        shown = ", ".join(map(str, blends[:5])) + (", ..." if len(blends) > 5 else "")
        raise DataError(
            f"masks look smoothed, scaled, or once stored as JPEG: {len(blends)} of the "
            f"{len(seen.first)} values in them ({shown}) occur only in thin lines and specks, "
            f"unlike classes, and would make {values[-1] + 1} classes; export the masks again "
            "without smoothing and scale them by the nearest pixel, or, if all values are classes, "
            f"name them in a classes.toml (names, values): {seen.first[blends[0]]}"
        )
    return Classes(tuple(str(value) for value in range(values[-1] + 1)), IGNORED)


def check_values(mask: UInt8[np.ndarray, "height width"], classes: Classes, name: object) -> None:
    """Refuse a mask with values that have no meaning.

    Raises:
        DataError: If a value is neither a class nor ignored.
    """
    index_of = classes.index_of or range(256)
    strange = [
        value
        for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
        if index_of[value] != classes.ignore_index
        and not NO_CLASS < index_of[value] < len(classes.names)
    ]
    if not strange:
        return
    shown = ", ".join(map(str, strange[:5])) + (", ..." if len(strange) > 5 else "")
    if classes.index_of is not None:
        advice = f"; {classes.advice}" if classes.advice else ""
        raise DataError(
            f"mask has the values {shown}, which the layout does not know{advice}: {name}"
        )
    remedy = "correct the mask, or add names or an ignore_index to classes.toml"
    if strange == [255] and len(classes.names) == 2:
        remedy = "write 1 in place of 255 in black-and-white masks, or set ignore_index = 255"
    raise DataError(
        f"mask has the values {shown}, neither a class (0 to {len(classes.names) - 1}) "
        f"nor ignored; {remedy}: {name}"
    )


def read_values(item: Item) -> UInt8[np.ndarray, "height width"]:
    """Read the values of an item's mask as stored; the image is not read.

    Raises:
        DataError: If there is no mask, or it cannot be read.
    """
    if item.mask is None:
        raise DataError(f"image has no mask; put one at masks/{item.stem}.png: {item.image}")
    if isinstance(item.mask, Scene):
        return draw_scene(item.mask)[1].copy()
    return read_mask(item.mask)
