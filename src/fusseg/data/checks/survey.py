"""Survey a folder of images: its layout, a good image size, and what to hold out."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.folders import visible
from fusseg.data.images import SUFFIXES, source_shape
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts.known_trees import lies_in_masks
from fusseg.data.layouts.sites import find_known_layout

SHORTER_SIDE, LONGEST_RATIO = 320, 3
"""Pixels of the shorter side that a backbone sees, and the largest aspect ratio."""
NUM_LOOKED_AT = 40
"""Number of images to read the size of."""


def find_layout(root: Path) -> DataConfig:
    """Find the layout of a folder of images.

    Returns:
        Settings with layout and root. A folder that fits no layout is taken for a folder of sites:
        opening it then says what is missing. Names are checked when the layout is opened.

    Raises:
        DataError: If the folder cannot be read.
    """
    known = find_known_layout(root)
    if known is not None:
        layout, folder = known
        return DataConfig(layout=layout, root=str(folder))
    if lies_in_masks(root):
        return DataConfig(root=str(root))
    try:
        if any(root.glob("*/images")):
            return DataConfig(root=str(root))
        for folder in (root / "images", root):
            if folder.is_dir() and any(path.suffix.lower() in SUFFIXES for path in visible(folder)):
                return DataConfig(layout="images", root=str(folder))
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    return DataConfig(root=str(root))


def choose_size(items: Sequence[Item], stride: int) -> tuple[int, int]:
    """Choose the size that the backbone sees: the usual shape, its shorter side about 320 pixels.

    Args:
        items: Images; the sizes of some are read.
        stride: Pixels between two feature vectors.

    Returns:
        Height and width, multiples of the stride; a square if upright and wide images are both
        common.

    Raises:
        DataError: If none of the images can be read.
    """
    shapes, unreadable = [], ""
    for item in items[:: -(-len(items) // NUM_LOOKED_AT)]:
        try:
            shapes.append(source_shape(item))
        except DataError as error:
            unreadable = str(error)
    if not shapes:
        raise DataError(f"none of the images can be read; the error of the last: {unreadable}")
    short = min(SHORTER_SIDE, median(min(shape) for shape in shapes))
    upright = sum(height > width for height, width in shapes) / len(shapes)
    ratio = median(height / width for height, width in shapes)
    if 0.2 < upright < 0.8:
        ratio = 1.0
    ratio = min(max(ratio, 1 / LONGEST_RATIO), LONGEST_RATIO)
    height, width = short * max(1.0, ratio), short * max(1.0, 1 / ratio)
    return _to_multiple(height, stride), _to_multiple(width, stride)


def _to_multiple(side: float, stride: int) -> int:
    return max(-(-16 // stride), round(side / stride)) * stride


def choose_splits(dataset: Dataset) -> tuple[str, str] | None:
    """Name the split that trains and the one that is held out; None if there are no such splits."""
    splits = {item.split for item in dataset.items}
    held_out = next((name for name in ("test", "val", "validation") if name in splits), None)
    return ("train", held_out) if "train" in splits and held_out is not None else None


def choose_split_sites(dataset: Dataset) -> tuple[tuple[str, ...], str] | None:
    """Name the sites that train and the one to hold out, if sites are named like splits.

    Returns:
        Sites such as `train` and `val`, or `training` and `validation`. A site with masks is held
        out first, and validation before test, because masks of test sets are often not published.
        None if sites are not named like splits.
    """
    sites = {site.lower().removesuffix("2017"): site for site in dataset.sites}
    training = tuple(sites[name] for name in ("train", "training") if name in sites)
    masked = {item.client for item in dataset.items if item.mask is not None}
    held_out = [sites[name] for name in ("val", "valid", "validation", "test") if name in sites]
    chosen = min(held_out, key=lambda site: site not in masked, default="")
    # Holding out a test set without masks would give no scores, though the training set has masks.
    if not training or not chosen or (masked and chosen not in masked):
        return None
    return training, chosen


def sites_of_split(dataset: Dataset, split: str) -> tuple[str, ...]:
    """Name the sites that have images in a split, sorted."""
    return tuple(sorted({item.client for item in dataset.items if item.split == split}))
