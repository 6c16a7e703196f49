"""The table of partitions: which client holds which training image.

Adding a partition is one function and one line; docs/extending.md adds one from a script.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError, nearest_name
from fusseg.data.cameras import choose_cameras
from fusseg.data.crops import cut_up
from fusseg.data.items import Dataset, Item
from fusseg.data.partitions.dirichlet import deal_dirichlet
from fusseg.data.partitions.dominant import count_labels, dominant_classes, known_classes
from fusseg.data.partitions.grouping import apportion, check_enough, join_runs, split_evenly
from fusseg.data.partitions.partition_file import read_partition
from fusseg.data.partitions.small_clients import MIN_IMAGES, small_clients
from fusseg.data.partitions.unlike_clients import (
    deal_classes,
    deal_sizes,
    growing_sizes,
    parse_ratio,
)
from fusseg.data.selection import select_training

Partition = Callable[[Sequence[Item], Dataset, DataConfig, int], list[str]]
"""From training images sorted by site and stem, data set, settings and the least number of images
per client to the client of each image."""


def training_images(
    dataset: Dataset, config: DataConfig, min_images: int = MIN_IMAGES
) -> tuple[Item, ...]:
    """List the training images: selected, divided among clients, and cut into crops.

    `data.cameras` says which clients see theirs through another camera.

    Args:
        dataset: All images.
        config: Selection, partition, cameras and crops.
        min_images: Least number of images that `dirichlet` gives each client: a batch.

    Raises:
        ConfigError: If the selection or the partition is not possible.
        DataError: If a client has fewer than two images, or a list or saved partition is wrong.

    Examples:
        >>> from fusseg.data.layouts import open_dataset
        >>> config = DataConfig(layout="synthetic", images_per_site=4, partition="iid")
        >>> images = Counter(item.client for item in training_images(open_dataset(config), config))
        >>> sorted(images.items())
        [('client-00', 4), ('client-01', 4), ('client-02', 4), ('client-03', 4)]
    """
    items = partition(select_training(dataset, config), dataset, config, min_images)
    return cut_up(choose_cameras(items, config.cameras or {}), config.crops)


def partition(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int = MIN_IMAGES
) -> tuple[Item, ...]:
    """Assign each training image to a client; the order of the items makes no difference.

    Returns:
        The items with their clients, sorted by site and stem.

    Raises:
        ConfigError: If the partition is unknown or not possible.
        DataError: If a client has fewer than two images, or a saved partition is wrong.
    """
    kind, colon, argument = config.partition.partition(":")
    if kind not in PARTITIONS:
        known = (f"{name}:..." if name in _WITH_ARGUMENT else name for name in PARTITIONS)
        raise ConfigError(
            f"unknown data.partition {config.partition!r}; {nearest_name(kind, known)}"
        )
    if bool(argument) != (kind in _WITH_ARGUMENT) or bool(colon) != bool(argument):
        form = _WITH_ARGUMENT.get(kind, kind)
        raise ConfigError(f"data.partition must be {form!r}, got {config.partition!r}")
    if kind in _DECIDES_CLIENTS and config.num_clients:
        raise ConfigError(
            f"data.num_clients is {config.num_clients}, but data.partition {config.partition!r} "
            "decides how many clients there are; set it to 0"
        )
    _check_number(config.num_clients, len(items))
    ordered = sorted(items, key=lambda item: (item.site, item.stem))
    clients = PARTITIONS[kind](ordered, dataset, config, min_images)
    for message in small_clients(Counter(clients), config).values():
        raise DataError(message)
    return tuple(
        replace(item, client=client) for item, client in zip(ordered, clients, strict=True)
    )


def _check_number(num_clients: int, num_images: int) -> None:
    if num_clients * MIN_IMAGES > num_images:
        raise ConfigError(
            f"data.num_clients {num_clients} is too many for {num_images} training images, each "
            f"client needs at least {MIN_IMAGES}; lower it"
        )


def by_site(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Make each site a client, or join sites that follow each other in the layout's order."""
    sites = _sites(items, dataset)
    num_clients = config.num_clients or len(sites)
    check_enough(num_clients, len(sites), "site")
    if num_clients == len(sites):
        return [item.site for item in items]
    group = join_runs(sites, num_clients)
    names = client_names(num_clients)
    return [names[group[item.site]] for item in items]


def at_random(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Shuffle all images and deal them out evenly."""
    num_clients = config.num_clients or len(_sites(items, dataset))
    names = client_names(num_clients)
    clients = np.empty(len(items), np.int64)
    order = np.random.default_rng(config.partition_seed).permutation(len(items))
    clients[order] = np.arange(len(items)) % num_clients
    return [names[client] for client in clients]


def by_dirichlet(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Deal out the images of each dominant class in shares drawn from a Dirichlet.

    Images without a labeled pixel are dealt out like one more class.
    """
    num_clients = config.num_clients or len(_sites(items, dataset))
    dominant = _dominant(items, dataset, "dirichlet")
    least = max(min_images, MIN_IMAGES)
    clients = deal_dirichlet(dominant, num_clients, config.alpha, least, config.partition_seed)
    names = client_names(num_clients)
    return [names[client] for client in clients]


def by_classes(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Give all images of a dominant class to one client, so that no two share a class."""
    num_clients = config.num_clients or len(_sites(items, dataset))
    clients = deal_classes(_dominant(items, dataset, "classes"), num_clients)
    names = client_names(num_clients)
    return [names[client] for client in clients]


def by_sizes(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Shuffle all images, and deal them out to clients of growing sizes."""
    ratio = parse_ratio(config.partition.removeprefix("sizes:"))
    num_clients = config.num_clients or len(_sites(items, dataset))
    _check_number(num_clients, len(items))
    names = client_names(num_clients)
    sizes = growing_sizes(len(items), num_clients, ratio)
    dealt = deal_sizes(len(items), sizes, np.random.default_rng(config.partition_seed))
    return [names[client] for client in dealt]


def by_blocks(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Cut each site into runs of consecutive file names, all of about the same length."""
    sites = _sites(items, dataset)
    num_clients = config.num_clients or len(sites)
    check_enough(num_clients, len(sites), "blocks")
    images: dict[str, int] = Counter(item.site for item in items)
    parts = apportion([images[site] for site in sites], num_clients)
    names: dict[str, list[str]] = defaultdict(list)
    for site, num_parts in zip(sites, parts, strict=True):
        sizes = split_evenly(images[site], num_parts)
        for name, size in zip(client_names(num_parts, site), sizes, strict=True):
            names[site] += [name] * size
    # Items are sorted by site and stem.
    taken = {site: iter(of_site) for site, of_site in names.items()}
    return [next(taken[item.site]) for item in items]


def by_column(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Make each value of the column a client, as `open_dataset` has set in the items."""
    return [item.client for item in items]


def by_file(
    items: Sequence[Item], dataset: Dataset, config: DataConfig, min_images: int
) -> list[str]:
    """Take each image's client from a saved partition."""
    return read_partition(Path(config.partition.removeprefix("file:")), items, dataset)


PARTITIONS: dict[str, Partition] = {
    "site": by_site,
    "iid": at_random,
    "dirichlet": by_dirichlet,
    "classes": by_classes,
    "sizes": by_sizes,
    "blocks": by_blocks,
    "column": by_column,
    "file": by_file,
}
"""Partitions by name; adding one is one function and one line."""

_WITH_ARGUMENT = {"column": "column:NAME", "file": "file:PATH", "sizes": "sizes:RATIO"}
_DECIDES_CLIENTS = ("column", "file")
"""Partitions that say how many clients there are."""


def client_names(num_clients: int, prefix: str = "client") -> list[str]:
    """Number clients so that their names sort in order.

    Examples:
        >>> client_names(2)
        ['client-00', 'client-01']
    """
    width = max(2, len(str(num_clients - 1)))
    return [f"{prefix}-{client:0{width}d}" for client in range(num_clients)]


def _dominant(
    items: Sequence[Item], dataset: Dataset, partition: str
) -> Int64[np.ndarray, " images"]:
    """Find the dominant class of each image, for a partition that cannot do without.

    Raises:
        DataError: If an image has no mask.
    """
    without = [item for item in items if item.mask is None]
    classes = known_classes(items, dataset)
    if without or classes is None:
        raise DataError(
            f'data.partition "{partition}" needs the dominant class of each image, but '
            f"{len(without)} of {len(items)} training images have no mask, the first: image "
            f"{without[0].stem!r} of site {without[0].site!r}; add masks, leave the images out "
            "with data.train_list, or choose another partition"
        )
    return dominant_classes(count_labels(items, classes))


def _sites(items: Sequence[Item], dataset: Dataset) -> list[str]:
    """List the sites of the training images, in the layout's order."""
    place = {site: number for number, site in enumerate(dataset.site_order)}
    return sorted(
        {item.site for item in items}, key=lambda site: (place.get(site, len(place)), site)
    )
