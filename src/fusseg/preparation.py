"""From a configuration to clients with features and held-out images: everything before round 1."""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from fusseg.compute import Compute, choose_compute, set_threads
from fusseg.config import Config
from fusseg.data.datasets import open_dataset, select_held_out, select_training
from fusseg.data.partition import training_images
from fusseg.errors import ConfigError, DataError
from fusseg.evaluation.held_out import HeldOut, gather_held_out
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import Elsewhere, Progress, SiteFeatures, extract_features
from fusseg.features.pipeline import Skipped
from fusseg.features.views import View, held_out_views, training_views, with_mirrored
from fusseg.federation.client import Client
from fusseg.federation.strategies import keeps_own_models, resolve_federation
from fusseg.spread.workers import Workers


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation work on."""

    backbone: Backbone
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    clients: tuple[Client, ...]
    """Sorted by their ids."""
    shown: HeldOut
    """What is scored and pictured: the held-out images or, where nothing is held out, the training
    images, without their labels unless `evaluation.at_sites` asks for them."""
    skipped: tuple[Skipped, ...]
    seconds: float


def prepare(
    config: Config, cache: Path, workers: Workers | None = None
) -> Generator[Progress, None, Prepared]:
    """Open the data, load the backbone, extract what the cache lacks.

    Args:
        config: All settings.
        cache: Folder of the feature cache.
        workers: Who extracts; None: this process.

    Yields:
        Progress of the extraction, image by image.

    Raises:
        ConfigError: If the configuration names what is not there.
        DataError: If the data cannot be used.
    """
    dataset = open_dataset(config.data)
    items = training_images(dataset, config.data, config.local.batch_size)
    held_out_items = select_held_out(dataset, config.data)
    check_scored(config)
    set_threads(config.compute)
    compute = choose_compute(config.compute)
    backbone = load_backbone(config.backbone.name, compute)
    training = training_views(items, backbone, config)
    shown_items = held_out_items or tuple(
        item if config.evaluation.at_sites or item.mask is None else replace(item, mask=None)
        for item in select_training(dataset, config.data)
    )
    shown = held_out_views(shown_items, backbone, config)
    wanted = (*training, *with_mirrored(shown, config.evaluation))
    started = time.perf_counter()
    batch_size = config.backbone.batch_size
    elsewhere = None if workers is None else Elsewhere(workers, config.compute)
    features = yield from extract_features(wanted, backbone, batch_size, cache, elsewhere)
    seconds = time.perf_counter() - started
    held_out = gather_held_out(shown, features, dataset.classes, config.evaluation)
    return Prepared(
        backbone=backbone,
        center=backbone.center if config.backbone.center == "auto" else config.backbone.center,
        clients=_clients(training, features, cache, compute),
        shown=held_out,
        skipped=features.skipped,
        seconds=seconds,
    )


def load_fingerprint(config: Config) -> str:
    """Load the backbone for its fingerprint alone: features of a wrong one would be in vain.

    Raises:
        ConfigError: If there is no such backbone, or it cannot be loaded.
    """
    return load_backbone(config.backbone.name, choose_compute(config.compute)).fingerprint


def check_scored(config: Config) -> None:
    """Refuse to score at the sites and on held-out ones at once, or at sites that share no model.

    Raises:
        ConfigError: If both are asked for, or a part of the model stays with each site.
    """
    if config.evaluation.at_sites and keeps_own_models(resolve_federation(config.federation)):
        raise ConfigError(
            "evaluation.at_sites counts under one model for all sites, but under "
            f"federation.strategy {config.federation.strategy!r} with these switches each keeps "
            "its own; set it to false"
        )
    if config.evaluation.at_sites and config.data.held_out_sites:
        raise ConfigError(
            "evaluation.at_sites scores where images train, but data.held_out_sites is "
            f"{list(config.data.held_out_sites)}; set one of them only"
        )


def _clients(
    training: tuple[View, ...], features: SiteFeatures, cache: Path, compute: Compute
) -> tuple[Client, ...]:
    clients = []
    for client in sorted({view.item.client for view in training}):
        views = [view for view in training if view.item.client == client]
        usable = [view for view in views if features.has(view)]
        if len(usable) < 2:
            raise DataError(
                f"client {client!r} has {len(usable)} usable training images of {len(views)}, "
                "needs at least 2; see what was skipped with fusseg check and replace it, or "
                "change data.train_sites or data.partition"
            )
        clients.append(Client(client, features.of_views(usable), cache, compute))
    return tuple(clients)
