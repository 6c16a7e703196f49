"""Everything before round 1: from a configuration to clients with features and held-out images."""

import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from fusseg.cluster.workers import Workers
from fusseg.config.compute import choose_compute, set_threads
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.class_map import read_class_map
from fusseg.data.findings import Finding
from fusseg.data.images import decoding_of
from fusseg.data.items import Dataset
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions import training_images
from fusseg.data.partitions.small_clients import check_held_out, small_clients
from fusseg.data.selection import select_held_out, select_training
from fusseg.data.stored import Stored, judge_stored, look_over
from fusseg.evaluation.held_out import HeldOut, gather_held_out
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import Elsewhere, Progress, SiteFeatures, extract_features
from fusseg.features.labeled_features import LabeledFeatures
from fusseg.features.pipeline import Skipped
from fusseg.features.views import (
    View,
    check_views,
    held_out_views,
    training_views,
    with_mirrored,
    zoomed_views,
)
from fusseg.federation.state import Client
from fusseg.federation.strategies import resolve
from fusseg.runs.label_reading import label_features, labeled_views, mask_reader
from fusseg.runs.warm_start import check_start


@dataclass(frozen=True)
class Lookup:
    """Data and backbone that the settings name, found before any image is opened."""

    dataset: Dataset
    backbone: Backbone
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    training: tuple[View, ...]
    """Training images or their crops, each with its client."""
    shown: tuple[View, ...]
    """Images that are scored and pictured, as in `Prepared.shown`."""
    zoomed: tuple[View, ...]
    """Zoomed views of some training images, if models are judged."""


@dataclass(frozen=True)
class Prepared:
    """Data of training and evaluation."""

    backbone: Backbone
    center: bool
    """Whether the mean feature is subtracted before any cosine."""
    clients: tuple[Client, ...]
    """Clients, sorted by id."""
    shown: HeldOut
    """Images that are scored and pictured: the held-out images or, if nothing is held out, the
    training images, without their labels unless `evaluation.at_sites` is set."""
    skipped: tuple[Skipped, ...]
    stored: tuple[Stored, ...]
    """Values in the files of some training images."""
    seconds: float
    """Wall time of the extraction."""


def look_up(config: Config) -> Lookup:
    """List the data, load the backbone, and check all rules that need no pixels.

    Raises:
        ConfigError: If the configuration names something that does not exist, or settings that
            cannot be combined.
        DataError: If the data cannot be used.
    """
    dataset = open_dataset(config.data)
    items = training_images(dataset, config.data, config.local.batch_size)
    held_out = select_held_out(dataset, config.data)
    check_scored(config)
    if config.teach.class_map:
        # It is needed after the extraction, which may take hours.
        read_class_map(Path(config.teach.class_map))
    backbone = load_backbone(
        config.backbone.name, choose_compute(config.compute), config.backbone.grid
    )
    check_views(config, backbone)
    shown = held_out or tuple(
        item if config.evaluation.at_sites or item.mask is None else replace(item, mask=None)
        for item in select_training(dataset, config.data)
    )
    training = training_views(items, backbone, config)
    return Lookup(
        dataset=dataset,
        backbone=backbone,
        center=is_centered(config, backbone),
        training=training,
        shown=held_out_views(shown, backbone, config),
        zoomed=zoomed_views(training, backbone) if resolve(config).judges else (),
    )


def look_up_new(config: Config) -> Lookup:
    """Look up data and backbone of a new run, and check all that needs no pixels.

    Raises:
        ConfigError: As for `look_up`; also if strategy, switches and backbone cannot be combined,
            or if no run can start from `model.start`.
        DataError: If the data or the saved model cannot be used.
    """
    resolve(config)
    lookup = look_up(config)
    resolve(config, feature_dim=lookup.backbone.feature_dim)
    check_start(config, lookup.backbone.fingerprint, center=lookup.center)
    return lookup


def prepare(
    config: Config, cache: Path, workers: Workers | None = None
) -> Generator[Progress | Finding, None, Prepared]:
    """Look up data and backbone, then extract the features that are not in the cache.

    Args:
        config: All settings.
        cache: Folder of the feature cache.
        workers: Workers that extract; None: this process.

    Yields:
        Findings about the stored values, and progress of the extraction, image by image.

    Raises:
        ConfigError: If the configuration names something that does not exist.
        DataError: If the data cannot be used.
    """
    return (yield from extract(look_up(config), config, cache, workers))


def extract(
    lookup: Lookup, config: Config, cache: Path, workers: Workers | None = None
) -> Generator[Progress | Finding, None, Prepared]:
    """Extract the features that are not in the cache.

    Args:
        lookup: Data and backbone.
        config: All settings.
        cache: Folder of the feature cache.
        workers: Workers that extract; None: this process.

    Yields:
        Findings about the stored values, and progress of the extraction, image by image.

    Raises:
        DataError: If too few images can be used, or a mask that is needed for scores cannot.
    """
    set_threads(config.compute)
    backbone, classes = lookup.backbone, lookup.dataset.classes
    wanted = (*lookup.training, *lookup.zoomed, *with_mirrored(lookup.shown, config.evaluation))
    decoding = decoding_of(config.data)
    stored = look_over([view.item for view in lookup.training], decoding)
    if config.data.held_out_sites:
        others = look_over([view.item for view in lookup.shown], decoding)
        yield from judge_stored([*stored, *others], decoding)
    else:
        yield from judge_stored(stored, decoding)
    started = time.perf_counter()
    batch_size = config.backbone.batch_size
    elsewhere = None if workers is None else Elsewhere(workers, config.compute)
    features = yield from extract_features(wanted, backbone, batch_size, cache, elsewhere)
    seconds = time.perf_counter() - started
    clients = _clients(lookup, features, config, cache)
    if config.data.held_out_sites:
        check_held_out(sum(map(features.has, lookup.shown)), len(lookup.shown))
    shown = gather_held_out(lookup.shown, features, classes, config.evaluation)
    return Prepared(
        backbone=backbone,
        center=lookup.center,
        clients=clients,
        shown=shown,
        skipped=features.skipped,
        stored=tuple(stored),
        seconds=seconds,
    )


def is_centered(config: Config, backbone: Backbone) -> bool:
    """Tell whether the mean feature is subtracted before any cosine."""
    if config.privacy.noise != "none":
        # The mean feature is not told.
        return False
    return backbone.center if config.backbone.center == "auto" else config.backbone.center


def check_scored(config: Config) -> None:
    """Check that scores at the sites are combined neither with held-out sites nor own models.

    Raises:
        ConfigError: If `evaluation.at_sites` is set and sites are held out, or a part of the model
            stays with each site.
    """
    if config.evaluation.at_sites and resolve(config).keeps_own_models:
        raise ConfigError(
            "evaluation.at_sites scores one model for all sites, but with federation.strategy "
            f"{config.federation.strategy!r} and its federation.aggregate_* settings each site "
            "keeps its own; set evaluation.at_sites to false"
        )
    if config.evaluation.at_sites and config.data.held_out_sites:
        raise ConfigError(
            "evaluation.at_sites scores the sites that train, but data.held_out_sites is "
            f"{list(config.data.held_out_sites)}; set only one of them"
        )


def _clients(
    lookup: Lookup, features: SiteFeatures, config: Config, cache: Path
) -> tuple[Client, ...]:
    usable: dict[str, list[View]] = {view.item.client: [] for view in lookup.training}
    for view in filter(features.has, lookup.training):
        usable[view.item.client].append(view)
    zoomed: dict[str, list[View]] = {client: [] for client in usable}
    for view in lookup.zoomed:
        zoomed[view.item.client].append(view)
    counts = Counter({client: len(views) for client, views in usable.items()})
    for message in small_clients(counts, config.data, usable=True).values():
        raise DataError(message)
    compute = choose_compute(config.compute)
    labeled = _labeled(lookup, features, config) if config.federation.teach else {}
    return tuple(
        Client(
            client,
            features.of_views(views),
            cache,
            compute,
            features.of_views_if_any(zoomed[client]),
            labeled.get(client),
        )
        for client, views in sorted(usable.items())
    )


def _labeled(
    lookup: Lookup, features: SiteFeatures, config: Config
) -> dict[str, LabeledFeatures | None]:
    """Read the labels of each client that has some."""
    views, classes = labeled_views(lookup.training, lookup.dataset, config.teach.label_list)
    if classes is None:
        return {}
    by_client: dict[str, list[View]] = {}
    for view in views:
        by_client.setdefault(view.item.client, []).append(view)
    read = mask_reader(classes)
    return {
        client: label_features(own, features, classes.names, read)
        for client, own in by_client.items()
    }
