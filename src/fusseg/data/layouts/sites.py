"""A folder of sites: one folder per site with its images and, if there are any, its masks."""

import json
import os
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.class_file import read_classes
from fusseg.data.folders import data_root, files_by_stem, named, visible
from fusseg.data.images import SUFFIXES
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts.known_trees import find_tree
from fusseg.data.layouts.tree_links import describe_tree
from fusseg.data.mask_files import is_masks_folder, masks_by_stem
from fusseg.data.splits import read_splits, split_by_image

KNOWN_LAYOUTS = {"cityscapes": "leftImg8bit", "coco-stuff": "stuffthingmaps"}
"""Data sets that are read as distributed, and the folder by which each is recognized."""
LAYOUT = "expected ROOT/SITE/images/*.jpg (or png, tif, bmp, webp)"


def open_sites(config: DataConfig) -> Dataset:
    """List the images of a folder of sites; neither pixels nor masks are read.

    `ROOT/SITE/images/*` are the images. `ROOT/SITE/masks/STEM.png` (the masks), `ROOT/splits.csv`
    and `ROOT/classes.toml` are optional.

    Raises:
        ConfigError: If no root is set.
        DataError: If the root cannot be read or has no sites, a site has two images of one stem,
            a name is not valid UTF-8, a split is set but the table of splits is missing, or a table
            is malformed.
    """
    try:
        return _list_sites(config)
    except OSError as error:
        raise DataError(f"data.root cannot be read ({error.strerror}): {error.filename}") from error


def _list_sites(config: DataConfig) -> Dataset:
    root = data_root(config, LAYOUT)
    splits = _splits(config, root)
    items = [
        Item(site.name, stem, splits.get((site.name, stem), ""), image, masks.get(stem))
        for site in site_folders(root)
        for masks in [masks_by_stem(site / "masks")]
        for stem, image in files_by_stem(site / "images", SUFFIXES).items()
    ]
    if not items:
        raise DataError(f"no site found in {str(root)!r}; {_remedy(root)}")
    class_file = root / "classes.toml"
    classes = read_classes(class_file) if class_file.exists() else None
    return Dataset(tuple(sorted(items, key=lambda item: (item.site, item.stem))), classes)


def site_folders(root: Path) -> list[Path]:
    """List the folders that contain a folder `images`, sorted by name.

    Raises:
        DataError: If a name is not valid UTF-8.
    """
    return [named(path) for path in visible(root) if (path / "images").is_dir()]


def _splits(config: DataConfig, root: Path) -> dict[tuple[str, str], str]:
    path = root / config.splits
    if path.is_file():
        return split_by_image(read_splits(path))
    for key in ("train_split", "held_out_split"):
        split = getattr(config, key)
        if split:
            raise DataError(
                f"data.{key} is {split!r}, but there is no table of splits: {path}; "
                f"write one (columns stem, site, split) or leave data.{key} empty"
            )
    return {}


def _remedy(root: Path) -> str:
    """Say what to do about a root without sites, depending on its content."""
    known = find_known_layout(root)
    if known is not None:
        layout, folder = known
        return f'set data.layout = "{layout}" and data.root = {json.dumps(str(folder))}'
    tree = find_tree(root)
    if tree is not None:
        return describe_tree(tree)
    if (root / "images").is_dir() and _first_image(root / "images") is not None:
        return "it looks like a single site; give the folder above it as data.root"
    sites = [path for path in visible(root) if path.is_dir()]
    for folder in (root, *sites, *(path for site in sites for path in visible(site))):
        names = folder.relative_to(root).parts
        image = None if any(map(is_masks_folder, names)) else _first_image(folder)
        if image is not None and folder.name != "images":
            site = names[0] if names else "SITE"
            target = root / site / "images"
            return f"the image {image.name!r} lies in {str(folder)!r}; move it to {str(target)!r}"
    return LAYOUT


def find_known_layout(root: Path) -> tuple[str, Path] | None:
    """Look for Cityscapes or COCO-Stuff in a folder, one or two levels below it, or above it.

    Returns:
        Layout and root; None if neither is found.
    """
    above = [folder.parent for folder in (root, *root.parents) if folder.name == "leftImg8bit"]
    try:
        below = [path for depth in ("*", "*/*") for path in sorted(root.glob(depth))]
    except OSError:
        below = []
    for folder in (root, *above, *below):
        for layout, name in KNOWN_LAYOUTS.items():
            if os.path.isdir(folder / name):
                return layout, folder
    return None


def _first_image(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    return next((path for path in visible(folder) if path.suffix.lower() in SUFFIXES), None)
