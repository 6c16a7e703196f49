"""Which images of a data set train, and which are held out."""

from collections.abc import Collection

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.data.image_lists import pick_listed
from fusseg.data.items import Dataset, Item


def select(dataset: Dataset, sites: Collection[str], split: str) -> tuple[Item, ...]:
    """Pick the items of some sites and one split (empty: every split), in the data set's order."""
    return tuple(
        item
        for item in dataset.items
        if item.client in sites and (not split or item.split == split)
    )


def select_training(dataset: Dataset, config: DataConfig) -> tuple[Item, ...]:
    """Pick the images that train; clients and crops are set by `training_images`.

    If no training sites are named, all sites that are not held out train; if two different splits
    are set, held-out sites train as well. A named site must have images in the split, other sites
    need not.

    Raises:
        ConfigError: If a site or split is unknown, a named site has no image in the split,
            nothing is left to train on, or an image would both train and be held out.
        DataError: If the list of training images is wrong.

    Examples:
        >>> from fusseg.data.layouts import open_dataset
        >>> config = DataConfig(layout="synthetic", images_per_site=2, held_out_sites=("yard",))
        >>> sorted({item.site for item in select_training(open_dataset(config), config)})
        ['hall', 'tank', 'tunnel']
    """
    check_names(dataset, config.train_sites, "data.train_sites")
    check_split(dataset, config.train_split, "data.train_split")
    sites = config.train_sites or _other_sites(dataset, config)
    items = select(dataset, sites, config.train_split)
    _check_filled(items, config.train_sites, config.train_split, "train_sites")
    if not items:
        raise ConfigError(
            f"no image trains: data.held_out_sites names every site, {', '.join(dataset.sites)}; "
            "remove a site from it, or set data.train_split and data.held_out_split"
        )
    items = pick_listed(items, dataset, config.train_list, "data.train_list")
    held_out = set(select_held_out(dataset, config))
    both = [item for item in items if item in held_out]
    if both:
        raise ConfigError(
            f"image {both[0].stem!r} of site {both[0].client!r} both trains and is held out "
            f"({len(both)} images in all); set data.train_split and data.held_out_split to "
            "different splits, or name different sites"
        )
    return items


def select_held_out(dataset: Dataset, config: DataConfig) -> tuple[Item, ...]:
    """Pick the images that are evaluated; none if no held-out sites are named.

    Raises:
        ConfigError: If a site or split is unknown, a named site has no image in the split, or a
            split or list is set without sites.
        DataError: If the list of held-out images is wrong.
    """
    for key in ("held_out_split", "held_out_list"):
        if getattr(config, key) and not config.held_out_sites:
            raise ConfigError(
                f"data.{key} is {getattr(config, key)!r}, but data.held_out_sites is empty; "
                "name the sites to evaluate"
            )
    check_names(dataset, config.held_out_sites, "data.held_out_sites")
    check_split(dataset, config.held_out_split, "data.held_out_split")
    items = select(dataset, config.held_out_sites, config.held_out_split)
    _check_filled(items, config.held_out_sites, config.held_out_split, "held_out_sites")
    return pick_listed(items, dataset, config.held_out_list, "data.held_out_list")


def _other_sites(dataset: Dataset, config: DataConfig) -> tuple[str, ...]:
    if config.train_split and config.held_out_split and config.train_split != config.held_out_split:
        return dataset.sites
    return tuple(site for site in dataset.sites if site not in config.held_out_sites)


def check_names(dataset: Dataset, sites: tuple[str, ...], key: str) -> None:
    """Refuse unknown names of sites.

    Args:
        dataset: All images.
        sites: The names.
        key: Setting or option that holds them, for the message.

    Raises:
        ConfigError: If a site is unknown.
    """
    for site in sites:
        if site not in dataset.sites:
            raise ConfigError(
                f"unknown site {site!r} in {key}; {nearest_name(site, dataset.sites)}"
            )


def check_split(dataset: Dataset, split: str, key: str) -> None:
    """Refuse the name of a split without images.

    Args:
        dataset: All images.
        split: The name; empty: no split.
        key: Setting or option that holds it, for the message.

    Raises:
        ConfigError: If the split is unknown.
    """
    known = sorted({item.split for item in dataset.items if item.split})
    if split and not known:
        raise ConfigError(f"{key} is {split!r}, but no image has a split; leave it empty")
    if split and split not in known:
        raise ConfigError(f"unknown split {split!r} in {key}; {nearest_name(split, known)}")


def _check_filled(items: tuple[Item, ...], sites: tuple[str, ...], split: str, key: str) -> None:
    """Refuse named sites without items; the split is the only possible reason."""
    filled = {item.client for item in items}
    for site in sites:
        if site not in filled:
            raise ConfigError(
                f"site {site!r} of data.{key} has no image in split {split!r}; "
                "choose another split or leave the site out"
            )
