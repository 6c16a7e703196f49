"""Features of all sites' images: extracted once, then viewed per client."""

import hashlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from fusseg.config import Config
from fusseg.data.images import read_bytes
from fusseg.data.items import Item
from fusseg.errors import DataError
from fusseg.features.backbones import Backbone, check_image_size
from fusseg.features.feature_set import FeatureSet, pool_features, read_features
from fusseg.features.pipeline import DigestedItem, Skipped, extract_site
from fusseg.features.store import FeatureSettings, Store, open_store


@dataclass(frozen=True)
class Progress:
    """How far a stage is."""

    stage: Literal["read", "extract"]
    """`read`: the images' bytes are hashed; `extract`: the backbone runs over what is missing."""
    done: int
    total: int


@dataclass(frozen=True)
class SiteFeatures:
    """The stores of all sites and the digest of every image in them."""

    stores: dict[str, Store]
    digests: dict[tuple[str, str], str]
    """By site and stem."""
    skipped: tuple[Skipped, ...]

    def has(self, item: Item) -> bool:
        """Whether the item was extracted and not skipped."""
        digest = self.digests.get((item.site, item.stem))
        return digest is not None and digest in self._rows[item.site]

    @cached_property
    def _rows(self) -> dict[str, set[str]]:
        return {site: set(store.digests()) for site, store in self.stores.items()}

    def of_items(self, items: Iterable[Item]) -> FeatureSet:
        """View the features of some items, site by site; skipped items are left out.

        Raises:
            DataError: If no item has features.
        """
        by_site: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            if self.has(item):
                by_site[item.site].append(item)
        if not by_site:
            raise DataError("no image is left: every one was skipped; fusseg check says why")
        return pool_features([self._of_site(site, kept) for site, kept in by_site.items()])

    def _of_site(self, site: str, items: Sequence[Item]) -> FeatureSet:
        names = [f"{item.site}/{item.stem}" for item in items]
        digests = [self.digests[item.site, item.stem] for item in items]
        return read_features(self.stores[site], names, digests)


def extract_features(
    items: Sequence[Item], backbone: Backbone, config: Config, cache: Path
) -> Generator[Progress, None, SiteFeatures]:
    """Extract what the cache lacks.

    Args:
        items: Images of any sites.
        backbone: Frozen backbone.
        config: Image size, fit, interpolation and batch size.
        cache: Cache folder.

    Yields:
        Progress, image by image.

    Returns:
        Where the features are.

    Raises:
        ConfigError: If the image size does not suit the backbone.
        DataError: If the cache cannot be written.
    """
    check_image_size(backbone, config.data.image_size)
    settings = feature_settings(backbone, config)
    digested: dict[str, list[DigestedItem]] = defaultdict(list)
    skipped: list[Skipped] = []
    for done, item in enumerate(items, 1):
        outcome = digest_item(item)
        if isinstance(outcome, Skipped):
            skipped.append(outcome)
        else:
            digested[item.site].append(outcome)
        yield Progress("read", done, len(items))
    stores = {site: site_store(cache, site, backbone, settings) for site in sorted(digested)}
    total = sum(
        len({entry.digest for entry in digested[site]}.difference(store.digests()))
        for site, store in stores.items()
    )
    done = 0
    for site, store in stores.items():
        for extracted in extract_site(store, digested[site], backbone, config.backbone.batch_size):
            done += 1
            if isinstance(extracted, Skipped):
                skipped += _with_copies(extracted, digested[site])
            yield Progress("extract", done, total)
    digests = {
        (entry.item.site, entry.item.stem): entry.digest
        for entries in digested.values()
        for entry in entries
    }
    return SiteFeatures(stores, digests, tuple(skipped))


def _with_copies(skipped: Skipped, entries: Sequence[DigestedItem]) -> list[Skipped]:
    """Skip all items of a site that have the same bytes as a skipped one."""
    digest = next(entry.digest for entry in entries if entry.item == skipped.item)
    return [Skipped(entry.item, skipped.reason) for entry in entries if entry.digest == digest]


def digest_item(item: Item) -> DigestedItem | Skipped:
    """Hash an image's bytes; a file that cannot be read is skipped with its reason."""
    try:
        return DigestedItem(item, hashlib.sha256(read_bytes(item)).hexdigest())
    except DataError as error:
        return Skipped(item, str(error))


def feature_settings(backbone: Backbone, config: Config) -> FeatureSettings:
    """Collect all that decides a feature map besides the image's bytes."""
    return FeatureSettings(
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        image_size=config.data.image_size,
        fit=config.data.fit,
        interpolation=config.data.interpolation,
    )


def site_store(cache: Path, site: str, backbone: Backbone, settings: FeatureSettings) -> Store:
    """Open the store of one site for one backbone and size."""
    height, width = settings.image_size
    shape = (height // backbone.stride, width // backbone.stride, backbone.feature_dim)
    return open_store(cache, site, settings, shape)
