"""A plain folder of images, which all belong to one site."""

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.folders import data_root, files_by_stem
from fusseg.data.images import SUFFIXES
from fusseg.data.items import Dataset, Item

LAYOUT = "expected ROOT/*.jpg (or png, tif, bmp, webp)"


def open_images(config: DataConfig) -> Dataset:
    """List the images directly in the root; the site is named after the folder.

    Raises:
        ConfigError: If no root is set.
        DataError: If the root cannot be read or holds no image, or two images share a stem.
    """
    root = data_root(config, LAYOUT)
    try:
        images = files_by_stem(root, SUFFIXES)
    except OSError as error:
        raise DataError(f"data.root cannot be read ({error.strerror}): {error.filename}") from error
    if not images:
        raise DataError(f"no image in {str(root)!r}; {LAYOUT}")
    site = root.resolve().name or "images"
    return Dataset(tuple(Item(site, stem, "", path) for stem, path in images.items()), None)
