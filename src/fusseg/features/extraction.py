"""Features of all sites' images: extracted once, then viewed per client."""

import hashlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fusseg.data.images import read_bytes
from fusseg.data.items import Item, Source
from fusseg.errors import DataError
from fusseg.features.backbones import Backbone
from fusseg.features.feature_set import FeatureSet, pool_features, read_features
from fusseg.features.pipeline import DigestedItem, Skipped, extract_site
from fusseg.features.store import FeatureSettings, Store, open_store
from fusseg.features.views import View

Outcome = TypeVar("Outcome")
StoreKey = tuple[str, FeatureSettings]
"""Site and settings."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    stage: Literal["read", "extract"]
    """`read`: the images' bytes are hashed; `extract`: the backbone runs over what is missing."""
    done: int
    total: int


@dataclass(frozen=True)
class SiteFeatures:
    """The stores of all sites and settings, and the digest of every image in them."""

    stores: dict[StoreKey, Store]
    digests: dict[Item, str]
    """By item without its mask, whoever holds it."""
    skipped: tuple[Skipped, ...]
    """Each item once."""

    def has(self, view: View) -> bool:
        """Whether the view was extracted and not skipped."""
        digest = self.digests.get(_unlabeled(view.item))
        return digest is not None and digest in self._rows[_store_key(view)]

    @cached_property
    def _rows(self) -> dict[StoreKey, set[str]]:
        return {key: set(store.digests()) for key, store in self.stores.items()}

    def of_views(self, views: Iterable[View]) -> FeatureSet:
        """Join the features of some views in their order; skipped ones are left out.

        Raises:
            DataError: If no view has features.
        """
        present = [view for view in views if self.has(view)]
        if not present:
            raise DataError("no image is left: every one was skipped; fusseg check says why")
        places: dict[StoreKey, list[int]] = defaultdict(list)
        for place, view in enumerate(present):
            places[_store_key(view)].append(place)
        parts = [
            self._of_store(key, [present[place].item for place in found])
            for key, found in places.items()
        ]
        order = np.argsort(np.concatenate(list(places.values())))
        return pool_features(parts).pick(order)

    def _of_store(self, key: StoreKey, items: Sequence[Item]) -> FeatureSet:
        names = [f"{item.site}/{item.stem}" for item in items]
        digests = [self.digests[_unlabeled(item)] for item in items]
        return read_features(self.stores[key], names, digests)


def extract_features(
    views: Sequence[View], backbone: Backbone, batch_size: int, cache: Path
) -> Generator[Progress, None, SiteFeatures]:
    """Extract what the cache lacks.

    Args:
        views: Images of any sites, and how the backbone sees them; repeats are extracted once.
        backbone: Frozen backbone.
        batch_size: Images per forward pass.
        cache: Cache folder.

    Yields:
        Progress, image by image.

    Returns:
        Where the features are.

    Raises:
        DataError: If the cache cannot be written.
    """
    digests: dict[Item, str] = {}
    contents: dict[Source, str] = {}
    skipped: list[Skipped] = []
    items = list(dict.fromkeys(_unlabeled(view.item) for view in views))
    for done, item in enumerate(items, 1):
        outcome = digest_item(item, contents)
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
    done = 0
    for key, store in stores.items():
        for extracted in extract_site(store, wanted[key], backbone, batch_size):
            done += 1
            if isinstance(extracted, Skipped):
                skipped += _with_copies(extracted, wanted[key])
            yield Progress("extract", done, total)
    # An image that cannot be read cannot be in any of its views.
    once = {entry.item: entry for entry in reversed(skipped)}
    return SiteFeatures(stores, digests, tuple(reversed(once.values())))


def wait_for(stages: Generator[Progress, None, Outcome]) -> Outcome:
    """Run an extraction to its end where nobody watches its progress."""
    while True:
        try:
            next(stages)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome


def _unlabeled(item: Item) -> Item:
    return replace(item, mask=None, client=item.site)


def _store_key(view: View) -> StoreKey:
    return view.item.site, view.settings


def _by_store(
    views: Sequence[View], digests: Mapping[Item, str]
) -> dict[StoreKey, list[DigestedItem]]:
    """Group what is wanted by site, sorted, and settings."""
    wanted: dict[StoreKey, dict[Item, DigestedItem]] = defaultdict(dict)
    for view in sorted(views, key=lambda view: view.item.site):
        item = _unlabeled(view.item)
        if item in digests:
            wanted[_store_key(view)][item] = DigestedItem(item, digests[item])
    return {key: list(entries.values()) for key, entries in wanted.items()}


def _with_copies(skipped: Skipped, entries: Sequence[DigestedItem]) -> list[Skipped]:
    """Skip all items of a site that have the same bytes as a skipped one."""
    digest = next(entry.digest for entry in entries if entry.item == skipped.item)
    return [Skipped(entry.item, skipped.reason) for entry in entries if entry.digest == digest]


def digest_item(item: Item, contents: dict[Source, str]) -> DigestedItem | Skipped:
    """Hash an image's bytes, and where a crop lies in it; what cannot be read is skipped.

    Args:
        item: An image or a crop of one.
        contents: Digests of the images whose bytes were read, which are not read again for their
            other crops; a new one is added.
    """
    try:
        if item.image not in contents:
            contents[item.image] = hashlib.sha256(read_bytes(item)).hexdigest()
    except DataError as error:
        return Skipped(item, str(error))
    digest = contents[item.image]
    if item.crop is not None:
        digest = hashlib.sha256(f"{digest} {item.crop.share}".encode()).hexdigest()
    return DigestedItem(item, digest)


def _open(cache: Path, key: StoreKey, backbone: Backbone) -> Store:
    site, settings = key
    height, width = settings.image_size
    shape = (height // backbone.stride, width // backbone.stride, backbone.feature_dim)
    return open_store(cache, site, settings, shape)
