"""Labels: masks and the classes in them; read in evaluation, and to draw some partitions."""

from collections.abc import Iterable, Set

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from fusseg.data.decoding import decode, read_file
from fusseg.data.geometry import Fit, cut, resample
from fusseg.data.images import source_shape
from fusseg.data.items import NO_CLASS, Classes, Item
from fusseg.data.scenes import Scene, draw_scene
from fusseg.errors import DataError

DEFAULT_IGNORE = 255
"""Value that is ignored where no `classes.toml` says otherwise."""


def load_mask(item: Item, classes: Classes) -> UInt8[np.ndarray, "height width"]:
    """Read the class index of every pixel.

    Raises:
        DataError: If there is no mask, it is broken, it does not fit its image, or a value is
            neither a class nor ignored.
    """
    mask = _read_mask(item)
    shape = source_shape(item)
    if mask.shape != shape:
        raise DataError(
            f"mask of shape {mask.shape} does not fit its image of shape {shape}: {item.mask}"
        )
    return _class_indices(mask, item, classes)


def count_classes(item: Item, classes: Classes) -> Int64[np.ndarray, " classes"]:
    """Count the pixels of each class in a mask, ignored ones aside; its image is not looked at.

    Raises:
        DataError: If there is no mask, it is broken, or a value is neither a class nor ignored.
    """
    mask = _class_indices(_read_mask(item), item, classes)
    counts = np.bincount(mask.ravel(), minlength=256)[: len(classes.names)]
    return counts.astype(np.int64)


def _class_indices(
    mask: UInt8[np.ndarray, "height width"], item: Item, classes: Classes
) -> UInt8[np.ndarray, "part_height part_width"]:
    """Check the values, turn them into class indices, and cut out what the item is of."""
    check_values(mask, classes, item.mask)
    if classes.index_of is not None:
        mask = np.array(classes.index_of)[mask].astype(np.uint8)
    return mask if item.crop is None else cut(mask, item.crop.share)


def fit_mask(
    mask: UInt8[np.ndarray, "height width"], size: tuple[int, int], fit: Fit
) -> UInt8[np.ndarray, "fitted_height fitted_width"]:
    """Bring a mask to a size, each pixel from the nearest one, aligned with `fit_image`."""
    return resample(mask, size, fit, Image.Resampling.NEAREST)


def infer_classes(items: Iterable[Item]) -> Classes:
    """Name the classes 0 to the largest value in the masks at hand, 255 being ignored.

    Args:
        items: Those without a mask are passed over.

    Raises:
        DataError: If a mask cannot be read, there is none, or they are black and white.
    """
    return classes_of({value for item in items if item.mask for value in mask_values(item)})


def mask_values(item: Item) -> frozenset[int]:
    """Collect the values that occur in a mask.

    Raises:
        DataError: If there is no mask, or it cannot be read.
    """
    return frozenset(np.unique(_read_mask(item)).tolist())


def classes_of(values: Set[int]) -> Classes:
    """Name the classes 0 to the largest value but 255, which is ignored.

    Raises:
        DataError: If there is no value, or none but those of black-and-white masks.
    """
    if not values:
        raise DataError("no mask to infer the classes from; add a classes.toml")
    if values in ({0, 255}, {255}):
        raise DataError(
            "masks hold no values but 0 and 255; store class indices (1 in place of 255), "
            "or say in classes.toml what 255 means"
        )
    largest = max(values - {DEFAULT_IGNORE})
    return Classes(tuple(str(value) for value in range(largest + 1)), DEFAULT_IGNORE)


def check_values(mask: UInt8[np.ndarray, "height width"], classes: Classes, name: object) -> None:
    """Refuse a mask with values that mean nothing.

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
        raise DataError(f"mask has the values {shown}, which the layout does not know: {name}")
    mend = "correct the mask, or add names or an ignore_index to classes.toml"
    if strange == [255] and len(classes.names) == 2:
        mend = "write 1 in place of 255 in black-and-white masks, or set ignore_index = 255"
    raise DataError(
        f"mask has the values {shown}, neither a class (0 to {len(classes.names) - 1}) "
        f"nor ignored; {mend}: {name}"
    )


def _read_mask(item: Item) -> UInt8[np.ndarray, "height width"]:
    if item.mask is None:
        raise DataError(f"image has no mask; put one at masks/{item.stem}.png: {item.image}")
    if isinstance(item.mask, Scene):
        return draw_scene(item.mask)[1].copy()
    image = decode(read_file(item.mask, "mask"), "mask", item.mask)
    if image.mode not in ("1", "L", "P"):
        raise DataError(
            f"mask has pixels of mode {image.mode}, expected one 8-bit channel; "
            f"store the class index in each pixel, as mode L or P: {item.mask}"
        )
    return np.array(image).astype(np.uint8)
