"""Extracting the features of all sites' images once, to be viewed per client."""

import hashlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fusseg.cluster.workers import Workers
from fusseg.config.schema import ComputeConfig
from fusseg.core.errors import DataError
from fusseg.data.findings import Finding
from fusseg.data.images import read_bytes
from fusseg.data.items import Item, Source
from fusseg.features.backbones import Backbone
from fusseg.features.cache.store import FeatureSettings, Store, open_store
from fusseg.features.feature_set import FeatureSet, pool_features, read_features
from fusseg.features.on_workers.shard_queue import extract_on
from fusseg.features.on_workers.shards import BackboneSource
from fusseg.features.pipeline import DigestedItem, Extracted, Skipped, extract_site
from fusseg.features.views import View

Outcome = TypeVar("Outcome")
StoreKey = tuple[str, FeatureSettings]
"""Site and settings."""
_PART = 64
"""Number of images that a worker hashes at a time."""


@dataclass(frozen=True)
class Progress:
    """Progress of a stage."""

    stage: Literal["read", "extract", "prepare"]
    """`read`: hashing the images' bytes; `extract`: running the backbone on missing images;
    `prepare`: what the training objective needs of each image."""
    done: int
    total: int


@dataclass(frozen=True)
class Elsewhere:
    """Workers for the extraction, and their device, precision and threads."""

    workers: Workers
    compute: ComputeConfig

    def source_of(self, backbone: Backbone) -> BackboneSource:
        """Describe how a worker loads the same backbone, with the precision of this machine."""
        compute = replace(self.compute, precision=backbone.precision)
        return BackboneSource(backbone.name, compute, backbone.grid)


@dataclass(frozen=True)
class SiteFeatures:
    """The stores of all sites and settings, and the digest of every image in them."""

    stores: dict[StoreKey, Store]
    digests: dict[Item, str]
    """Digests by item, without mask and client."""
    skipped: tuple[Skipped, ...]
    """Skipped images, each item once."""

    def has(self, view: View) -> bool:
        """Tell whether the view was extracted and not skipped."""
        digest = self.digests.get(_unlabeled(view.item))
        return digest is not None and digest in self._rows[_store_key(view)]

    @cached_property
    def _rows(self) -> dict[StoreKey, set[str]]:
        found = {}
        for key, store in self.stores.items():
            present = set(store.digests())
            # Reuse the strings in memory instead of those just read.
            found[key] = {digest for digest in self.digests.values() if digest in present}
        return found

    def of_views(self, views: Iterable[View]) -> FeatureSet:
        """Join the features of some views in their order, without skipped ones.

        Raises:
            DataError: If no view has features.
        """
        present = [view for view in views if self.has(view)]
        if not present:
            raise DataError("no image is left, all were skipped; fusseg check says why")
        places: dict[StoreKey, list[int]] = defaultdict(list)
        for place, view in enumerate(present):
            places[_store_key(view)].append(place)
        parts = [
            self._of_store(key, [present[place].item for place in found])
            for key, found in places.items()
        ]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate(list(places.values())))
        return pool_features(parts).pick(order)

    def of_views_if_any(self, views: Iterable[View]) -> FeatureSet | None:
        """Join the features of some views; None if no view has features."""
        present = [view for view in views if self.has(view)]
        return self.of_views(present) if present else None

    def _of_store(self, key: StoreKey, items: Sequence[Item]) -> FeatureSet:
        names = [f"{item.site}/{item.stem}" for item in items]
        digests = [self.digests[_unlabeled(item)] for item in items]
        return read_features(self.stores[key], names, digests)


def extract_features(
    views: Sequence[View],
    backbone: Backbone,
    batch_size: int,
    cache: Path,
    elsewhere: Elsewhere | None = None,
) -> Generator[Progress, None, SiteFeatures]:
    """Extract the features that the cache lacks.

    Args:
        views: Images of any sites, and how the backbone sees them; repeats are extracted once.
        backbone: Frozen backbone.
        batch_size: Images per forward pass.
        cache: Cache folder.
        elsewhere: Workers that read the images and run the backbone; None: this process.

    Yields:
        Progress, image by image.

    Returns:
        The stores of the features.

    Raises:
        DataError: If the cache cannot be written.
    """
    digests: dict[Item, str] = {}
    skipped: list[Skipped] = []
    items = list(dict.fromkeys(_unlabeled(view.item) for view in views))
    read = _digest_all(items) if elsewhere is None else _digest_on(elsewhere.workers, items)
    for done, (item, outcome) in enumerate(zip(items, read, strict=True), 1):
        if isinstance(outcome, Skipped):
            skipped.append(outcome)
        else:
            digests[item] = outcome.digest
        yield Progress("read", done, len(items))
    wanted = _by_store(views, digests)
    stores = {key: _open(cache, key, backbone) for key in wanted}
    total = sum(
        len({entry.digest for entry in wanted[key]}.difference(store.digests()))
        for key, store in stores.items()
    )
    pairs = [(store, wanted[key]) for key, store in stores.items()]
    outcomes = (
        _extract_all(pairs, backbone, batch_size)
        if elsewhere is None
        else extract_on(elsewhere.workers, pairs, elsewhere.source_of(backbone), batch_size)
    )
    for done, (store, extracted) in enumerate(outcomes, 1):
        if isinstance(extracted, Skipped):
            skipped += _with_copies(extracted, wanted[store.site, store.settings])
        yield Progress("extract", done, total)
    # An unreadable image is skipped in each of its views, but reported once.
    once = {entry.item: entry for entry in reversed(skipped)}
    return SiteFeatures(stores, digests, tuple(reversed(once.values())))


def _extract_all(
    wanted: Sequence[tuple[Store, Sequence[DigestedItem]]], backbone: Backbone, batch_size: int
) -> Iterator[tuple[Store, Extracted | Skipped]]:
    for store, entries in wanted:
        for extracted in extract_site(store, entries, backbone, batch_size):
            yield store, extracted


def wait_for(stages: Generator[Progress | Finding, None, Outcome]) -> Outcome:
    """Run an extraction to its end without showing progress, and return its result."""
    while True:
        try:
            next(stages)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome


def _unlabeled(item: Item) -> Item:
    # Return the same object if nothing changes, to save memory: there is one per image.
    if item.mask is None and item.client == item.site:
        return item
    return replace(item, mask=None, client=item.site)


def _store_key(view: View) -> StoreKey:
    return view.item.site, view.settings


def _by_store(
    views: Sequence[View], digests: Mapping[Item, str]
) -> dict[StoreKey, list[DigestedItem]]:
    """Group views by site, sorted, and by settings."""
    wanted: dict[StoreKey, dict[Item, DigestedItem]] = defaultdict(dict)
    for view in sorted(views, key=lambda view: view.item.site):
        item = _unlabeled(view.item)
        if item in digests:
            wanted[_store_key(view)][item] = DigestedItem(item, digests[item])
    return {key: list(entries.values()) for key, entries in wanted.items()}


def _with_copies(skipped: Skipped, entries: Sequence[DigestedItem]) -> list[Skipped]:
    """List a skipped item together with all items of its site that have the same bytes."""
    digest = next(entry.digest for entry in entries if entry.item == skipped.item)
    return [Skipped(entry.item, skipped.reason) for entry in entries if entry.digest == digest]


def _digest_all(items: Iterable[Item]) -> Iterator[DigestedItem | Skipped]:
    contents: dict[Source, str] = {}
    return (digest_item(item, contents) for item in items)


def _digest_part(items: Sequence[Item]) -> list[DigestedItem | Skipped]:
    return list(_digest_all(items))


def _digest_on(workers: Workers, items: Sequence[Item]) -> Iterator[DigestedItem | Skipped]:
    parts = (items[start : start + _PART] for start in range(0, len(items), _PART))
    for outcomes in workers.map(_digest_part, parts):
        for outcome in outcomes:
            if isinstance(outcome, Skipped) and not isinstance(
                digest_item(outcome.item, {}), Skipped
            ):
                raise DataError(
                    f"a worker cannot read an image that this machine can ({outcome.reason}); "
                    "share the folder of the images under the same path"
                )
            yield outcome


def digest_item(item: Item, contents: dict[Source, str]) -> DigestedItem | Skipped:
    """Hash an image's bytes, crop and camera; an unreadable image is skipped.

    Args:
        item: An image or a crop of one.
        contents: Digests of images with crops, so that each is read once; new ones are added.
    """
    try:
        digest = contents.get(item.image)
        if digest is None:
            digest = hashlib.sha256(read_bytes(item)).hexdigest()
            if item.crop is not None:
                contents[item.image] = digest
    except DataError as error:
        return Skipped(item, str(error))
    if item.crop is not None:
        digest = hashlib.sha256(f"{digest} {item.crop.share}".encode()).hexdigest()
    if item.camera is not None:
        digest = hashlib.sha256(f"{digest} {item.camera}".encode()).hexdigest()
    return DigestedItem(item, digest)


def _open(cache: Path, key: StoreKey, backbone: Backbone) -> Store:
    site, settings = key
    height, width = settings.image_size
    shape = (height // backbone.stride, width // backbone.stride, backbone.feature_dim)
    return open_store(cache, site, settings, shape)
