"""The folder of one site, as opened by the site itself."""

from dataclasses import replace
from pathlib import Path

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.class_file import read_classes
from fusseg.data.folders import files_by_stem
from fusseg.data.images import SUFFIXES
from fusseg.data.items import Dataset, Item
from fusseg.data.layouts.sites import open_sites
from fusseg.data.mask_files import masks_by_stem
from fusseg.data.splits import read_splits, split_by_image


def open_site(folder: Path, name: str) -> Dataset:
    """List the images of one site; neither pixels nor masks are read.

    Args:
        folder: The site's folder (`images/`, and optionally `masks/`, `splits.csv` and
            `classes.toml`), or a folder of sites that contains a site `name`.
        name: Name of the site in the federation.

    Raises:
        DataError: If there is no image, two files share a stem, or a table is malformed.
    """
    try:
        if (folder / "images").is_dir():
            return _list_site(folder, name)
        if (folder / name / "images").is_dir():
            return _pick_site(open_sites(DataConfig(root=str(folder))), name)
    except OSError as error:
        raise DataError(f"the data cannot be read ({error.strerror}): {error.filename}") from error
    raise DataError(
        f"{folder} is not a site: it has neither a folder 'images' nor '{name}/images'; give the "
        "folder that contains 'images'"
    )


def _list_site(folder: Path, name: str) -> Dataset:
    table, class_file = folder / "splits.csv", folder / "classes.toml"
    splits = split_by_image(read_splits(table)) if table.is_file() else {}
    masks = masks_by_stem(folder / "masks")
    items = tuple(
        Item(name, stem, splits.get((name, stem), ""), image, masks.get(stem))
        for stem, image in sorted(files_by_stem(folder / "images", SUFFIXES).items())
    )
    if not items:
        raise DataError(f"no image in {folder / 'images'}: expected jpg, png, tif, bmp or webp")
    return Dataset(items, read_classes(class_file) if class_file.exists() else None)


def _pick_site(dataset: Dataset, name: str) -> Dataset:
    return replace(dataset, items=tuple(item for item in dataset.items if item.site == name))
