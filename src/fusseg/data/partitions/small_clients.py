"""Clients with too few images to train, and what to do about them."""

import json
from collections import Counter
from dataclasses import replace

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.findings import counted
from fusseg.data.items import Dataset
from fusseg.data.selection import select_training

MIN_IMAGES = 2
"""Images a client needs: every image is compared with its nearest neighbor."""
MOST_NAMED = 8
"""Most sites that a message lists."""


def small_clients(
    images: Counter[str], config: DataConfig, *, usable: bool = False
) -> dict[str, str]:
    """Describe each client with fewer than two training images, and what to do about it.

    Args:
        images: Number of training images, or of their crops, by client.
        config: Settings that the clients follow from.
        usable: Whether skipped images were left out of the count.

    Returns:
        A message for each such client, by its name.

    Examples:
        >>> config = DataConfig(partition="iid", num_clients=2)
        >>> small_clients(Counter({"client-00": 9, "client-01": 1}), config)["client-01"]
        "client 'client-01' has 1 training image, at least 2 are needed; lower data.num_clients"
    """
    named = _are_named(config)
    who, remedy = ("site", _remedy_for_sites(images, config)) if named else ("client", "")
    if not named:
        by_file = config.partition.startswith("file:")
        remedy = "write another partition" if by_file else "lower data.num_clients"
    kind = "usable training image" if usable else "training image"
    if usable:
        remedy = f"fusseg check lists what is skipped; {remedy}"
    return {
        client: f"{who} {client!r} has {counted(count, kind)}, at least "
        f"{MIN_IMAGES} are needed; {remedy}"
        for client, count in sorted(images.items())
        if count < MIN_IMAGES
    }


def check_held_out(usable: int, listed: int) -> None:
    """Refuse to go on if all held-out images are skipped: there would be nothing to score.

    Args:
        usable: Number of held-out images that can be read.
        listed: Number of held-out images.

    Raises:
        DataError: If there are held-out images, but none can be read.
    """
    if listed and not usable:
        raise DataError(
            f"every held-out image is skipped ({listed} in all), fusseg check says why; replace "
            "them, or hold out other sites"
        )


def small_sites(dataset: Dataset, config: DataConfig) -> dict[str, int]:
    """Count the images of each site that has fewer than two and is not in `data.train_sites`.

    Raises:
        ConfigError: If the selection cannot be made.
    """
    if not _are_named(config):
        return {}
    every = select_training(dataset, replace(config, train_sites=()))
    counts = Counter(item.client for item in every)
    return {
        site: count
        for site, count in sorted(counts.items())
        if count < MIN_IMAGES and site not in config.train_sites
    }


def _are_named(config: DataConfig) -> bool:
    """Tell whether `data.train_sites` names the clients."""
    return config.partition.startswith("column:") or (
        config.partition == "site" and not config.num_clients
    )


def _remedy_for_sites(images: Counter[str], config: DataConfig) -> str:
    if config.train_sites:
        return "add images or leave the site out of data.train_sites"
    enough = sorted(site for site, count in images.items() if count >= MIN_IMAGES)
    if not enough:
        return "add images"
    values = ", ".join(json.dumps(site, ensure_ascii=False) for site in enough)
    setting = f"set data.train_sites = [{values}]"
    if len(enough) > MOST_NAMED:
        setting = f"name the other {len(enough)} sites in data.train_sites"
    move = "" if config.partition != "site" else ", move the site out of data.root,"
    return f"add images{move} or {setting}"
