"""The table of data layouts, and which images of a data set train and which are held out."""

from collections import Counter
from collections.abc import Callable

from fusseg.config import DataConfig
from fusseg.data.items import Classes, Dataset, Item, select
from fusseg.data.scenes import SCENES, Scene
from fusseg.data.sites import open_sites
from fusseg.errors import ConfigError, DataError, nearest_name

MIN_IMAGES = 2
"""Images a training site needs: every image is compared with its nearest neighbor."""


def generate_sites(config: DataConfig) -> Dataset:
    """List generated scenes, all of them labeled; they are drawn when they are loaded.

    Raises:
        ConfigError: If there are no such scenes.
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


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "sites": open_sites,
    "synthetic": generate_sites,
}
"""Data layouts by name; adding one is one function and one line."""


def open_dataset(config: DataConfig) -> Dataset:
    """List the images of the layout that the settings name.

    Raises:
        ConfigError: If the layout is unknown, or its settings are wrong.
        DataError: If what the settings point to is missing or malformed.
    """
    if config.layout not in DATASETS:
        raise ConfigError(
            f"unknown data.layout {config.layout!r}; {nearest_name(config.layout, DATASETS)}"
        )
    return DATASETS[config.layout](config)


def select_training(dataset: Dataset, config: DataConfig) -> tuple[Item, ...]:
    """Pick the images that train.

    With no training sites named, all sites train that are not held out; where two different
    splits are set, held-out sites train as well. Named sites must have images in the split,
    others may be without.

    Raises:
        ConfigError: If a site or split is unknown, a named site has no image in the split,
            nothing is left to train on, or an image would both train and be held out.
        DataError: If a training site has fewer than two images.
    """
    _check_names(dataset, config.train_sites, "train_sites")
    _check_split(dataset, config.train_split, "train_split")
    sites = config.train_sites or _other_sites(dataset, config)
    items = select(dataset, sites, config.train_split)
    _check_filled(items, config.train_sites, config.train_split, "train_sites")
    if not items:
        raise ConfigError(
            f"no image trains: data.held_out_sites takes all of {', '.join(dataset.sites)}; "
            "leave a site out, or set data.train_split and data.held_out_split"
        )
    held_out = set(select_held_out(dataset, config))
    both = [item for item in items if item in held_out]
    if both:
        raise ConfigError(
            f"image {both[0].stem!r} of site {both[0].site!r} both trains and is held out "
            f"({len(both)} images in all); set data.train_split and data.held_out_split to "
            "different splits, or name different sites"
        )
    check_counts(Counter(item.site for item in items))
    return items


def select_held_out(dataset: Dataset, config: DataConfig) -> tuple[Item, ...]:
    """Pick the images that are evaluated; none where no held-out sites are named.

    Raises:
        ConfigError: If a site or split is unknown, a named site has no image in the split, or a
            split is set without sites.
    """
    if config.held_out_split and not config.held_out_sites:
        raise ConfigError(
            f"data.held_out_split is {config.held_out_split!r}, but data.held_out_sites is empty; "
            "name the sites to evaluate"
        )
    _check_names(dataset, config.held_out_sites, "held_out_sites")
    _check_split(dataset, config.held_out_split, "held_out_split")
    items = select(dataset, config.held_out_sites, config.held_out_split)
    _check_filled(items, config.held_out_sites, config.held_out_split, "held_out_sites")
    return items


def check_counts(images: Counter[str]) -> None:
    """Refuse training sites with too few images.

    Raises:
        DataError: If a site has fewer than two images.
    """
    for site, count in sorted(images.items()):
        if count < MIN_IMAGES:
            raise DataError(
                f"site {site!r} has {count} training image{'' if count == 1 else 's'}, at least "
                f"{MIN_IMAGES} are needed; add images or leave the site out of data.train_sites"
            )


def _other_sites(dataset: Dataset, config: DataConfig) -> tuple[str, ...]:
    if config.train_split and config.held_out_split and config.train_split != config.held_out_split:
        return dataset.sites
    return tuple(site for site in dataset.sites if site not in config.held_out_sites)


def _check_names(dataset: Dataset, sites: tuple[str, ...], key: str) -> None:
    for site in sites:
        if site not in dataset.sites:
            raise ConfigError(
                f"unknown site {site!r} in data.{key}; {nearest_name(site, dataset.sites)}"
            )


def _check_split(dataset: Dataset, split: str, key: str) -> None:
    known = sorted({item.split for item in dataset.items if item.split})
    if split and not known:
        raise ConfigError(f"data.{key} is {split!r}, but no image has a split; leave it empty")
    if split and split not in known:
        raise ConfigError(f"unknown split {split!r} in data.{key}; {nearest_name(split, known)}")


def _check_filled(items: tuple[Item, ...], sites: tuple[str, ...], split: str, key: str) -> None:
    """A site known to the data set can only be without items through the split."""
    filled = {item.site for item in items}
    for site in sites:
        if site not in filled:
            raise ConfigError(
                f"site {site!r} of data.{key} has no image in split {split!r}; "
                "choose another split or leave the site out"
            )
