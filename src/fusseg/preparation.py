"""From a configuration to clients with features and held-out images: everything before round 1."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from fusseg.config import Config
from fusseg.data.datasets import open_dataset, select_held_out, select_training
from fusseg.data.items import Item
from fusseg.errors import DataError
from fusseg.evaluation.held_out import HeldOut, hold_out
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import Progress, SiteFeatures, extract_features
from fusseg.features.pipeline import Skipped
from fusseg.federation.client import Client


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation work on."""

    backbone: Backbone
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    clients: tuple[Client, ...]
    """One per training site, sorted."""
    shown: HeldOut
    """What is scored and pictured: the held-out images or, where nothing is held out, the training
    images without their labels."""
    skipped: tuple[Skipped, ...]
    seconds: float


def prepare(config: Config, cache: Path) -> Generator[Progress, None, Prepared]:
    """Open the data, load the backbone, extract what the cache lacks.

    Yields:
        Progress of the extraction, image by image.

    Raises:
        ConfigError: If the configuration names what is not there.
        DataError: If the data cannot be used.
    """
    dataset = open_dataset(config.data)
    training = select_training(dataset, config.data)
    held_out_items = select_held_out(dataset, config.data)
    backbone = load_backbone(config.backbone.name)
    started = time.perf_counter()
    features = yield from extract_features([*training, *held_out_items], backbone, config, cache)
    seconds = time.perf_counter() - started
    shown_items = held_out_items or tuple(replace(item, mask=None) for item in training)
    usable = [item for item in shown_items if features.has(item)]
    shown = hold_out(usable, features.of_items(usable), dataset.classes, config.data)
    return Prepared(
        backbone=backbone,
        center=backbone.center if config.backbone.center == "auto" else config.backbone.center,
        clients=_clients(training, features, cache),
        shown=shown,
        skipped=features.skipped,
        seconds=seconds,
    )


def _clients(training: tuple[Item, ...], features: SiteFeatures, cache: Path) -> tuple[Client, ...]:
    clients = []
    for site in sorted({item.site for item in training}):
        items = [item for item in training if item.site == site]
        usable = [item for item in items if features.has(item)]
        if len(usable) < 2:
            raise DataError(
                f"site {site!r} has {len(usable)} usable training images of {len(items)}, needs at "
                "least 2; see what was skipped with fusseg check, or leave it out of "
                "data.train_sites"
            )
        clients.append(Client(site, features.of_items(usable), cache))
    return tuple(clients)
