"""The table of data layouts: how data sets lie on disk, one file for each layout.

Adding a layout is one function and one line; docs/extending.md adds one from a script.
"""

from collections.abc import Callable

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.layouts.cityscapes import open_cityscapes
from fusseg.data.layouts.coco_stuff import open_coco_stuff
from fusseg.data.layouts.columns import give_to_column
from fusseg.data.layouts.image_folder import open_images
from fusseg.data.layouts.sites import open_sites
from fusseg.data.synthetic.scenes import SCENES, Scene


def generate_sites(config: DataConfig) -> Dataset:
    """List generated scenes, all of them with masks; they are drawn when they are loaded.

    Raises:
        ConfigError: If `data.scenes` is unknown.
    """
    if config.scenes not in SCENES:
        raise ConfigError(
            f"unknown data.scenes {config.scenes!r}; {nearest_name(config.scenes, SCENES)}"
        )
    kind = SCENES[config.scenes]
    items = []
    for site in sorted(kind.sites):
        for index in range(config.images_per_site):
            scene = Scene(config.scenes, site, index, config.scene_seed)
            items.append(Item(site, f"{index:05d}", "", scene, scene))
    return Dataset(tuple(items), Classes(kind.class_names, colors=kind.colors))


LAYOUTS: dict[str, Callable[[DataConfig], Dataset]] = {
    "sites": open_sites,
    "images": open_images,
    "cityscapes": open_cityscapes,
    "coco-stuff": open_coco_stuff,
    "synthetic": generate_sites,
}
"""Function that opens a data set of each layout, by the name in `data.layout`."""


def open_dataset(config: DataConfig) -> Dataset:
    """List the images of a data set, each with its site or the value of `data.partition`'s column.

    Raises:
        ConfigError: If the layout is unknown, or its settings are wrong.
        DataError: If a file or folder that the settings name is missing or malformed.

    Examples:
        >>> dataset = open_dataset(DataConfig(layout="synthetic", images_per_site=2))
        >>> dataset.sites
        ('hall', 'tank', 'tunnel', 'yard')
        >>> len(dataset.items)
        8
    """
    if config.layout not in LAYOUTS:
        raise ConfigError(
            f"unknown data.layout {config.layout!r}; {nearest_name(config.layout, LAYOUTS)}"
        )
    return give_to_column(LAYOUTS[config.layout](config), config)
