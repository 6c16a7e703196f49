"""Shards of a site's missing images: a worker extracts each into a store of its own.

A shard is a folder `shards/<key>` in the site's store. It is itself a store, in float16 whatever
the format of the site's store, with one more file:

    outcomes.json  the outcome of each image

A shard exists whole or not at all, and an existing one is not extracted again.
"""

import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch

from fusseg.config.compute import choose_compute, set_threads
from fusseg.config.schema import ComputeConfig, Grid
from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically
from fusseg.data.images import Decoding, load_image
from fusseg.data.items import Item
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.cache.store import Store
from fusseg.features.pipeline import DigestedItem, Skipped, extract_site

SHARDS, OUTCOMES = "shards", "outcomes.json"
SHARD_IMAGES = 64
"""Most images of a shard (or one batch): the work that is lost if a worker dies."""


@dataclass(frozen=True)
class BackboneSource:
    """How a worker loads the backbone."""

    name: str
    """As written in `backbone.name`."""
    compute: ComputeConfig
    """Precision as chosen by the coordinating process; device `auto`: each worker's choice."""
    grid: Grid | None = None


@dataclass(frozen=True)
class Shard:
    """Missing images of a store, in whole groups of `batch_size`; the last may be smaller."""

    target: Store
    """The site's store, which gets the features in the end."""
    entries: tuple[DigestedItem, ...]
    backbone: BackboneSource
    batch_size: int

    @property
    def store(self) -> Store:
        """The shard's own store, which a worker writes."""
        names = [str(self.batch_size), *(entry.digest for entry in self.entries)]
        key = sha256(" ".join(names).encode()).hexdigest()[:16]
        # In float16: the process that joins the shards finds the basis and encodes the features.
        settings = replace(self.target.settings, cache="float16")
        return Store(self.target.path / SHARDS / key, self.target.site, settings, self.target.shape)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one image of a shard."""

    entry: DigestedItem
    reason: str
    """Why it has no features; empty if it has."""
    readable: bool
    """Whether it could be read and took a place in a group, even if its features were unusable."""


def cut_shards(
    target: Store, entries: Sequence[DigestedItem], backbone: BackboneSource, batch_size: int
) -> list[Shard]:
    """Cut images into shards of whole groups."""
    size = batch_size * max(1, SHARD_IMAGES // batch_size)
    return [
        Shard(target, tuple(entries[start : start + size]), backbone, batch_size)
        for start in range(0, len(entries), size)
    ]


def write_shard(shard: Shard) -> None:
    """Extract a shard; this runs on a worker.

    Raises:
        ConfigError: If the backbone cannot be loaded here.
        DataError: If the backbone differs from that of the coordinating process, an image is not
            accessible, or the disk is full.
    """
    store = shard.store
    if store.path.exists():
        return
    _check_seen(shard.entries)
    set_threads(shard.backbone.compute)
    backbone = _load(shard.backbone, store.settings.fingerprint, torch.get_num_threads())
    if backbone.fingerprint != store.settings.fingerprint:
        raise DataError(
            f"a worker's backbone {backbone.name!r} has the fingerprint "
            f"{backbone.fingerprint[:16]}, not {store.settings.fingerprint[:16]}; give all "
            "machines the same weights"
        )
    part = store.path.with_name(f".{store.path.name}.{secrets.token_hex(4)}")
    try:
        part.mkdir(parents=True)
        _extract(replace(store, path=part), shard, backbone)
        part.rename(store.path)
    except OSError as error:
        # Another worker that was presumed dead may have finished first.
        if not store.path.exists():
            raise DataError(
                f"cannot write features to {store.path}: {error.strerror}; free disk space or "
                "choose another cache folder with --cache or FUSSEG_CACHE"
            ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_outcomes(shard: Shard) -> list[Outcome]:
    """Read the outcomes of a finished shard's images, in the order of the extraction.

    Raises:
        DataError: If the shard is damaged.
    """
    file = shard.store.path / OUTCOMES
    try:
        return [
            Outcome(shard.entries[index], reason, readable)
            for index, reason, readable in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"damaged shard, delete it: {shard.store.path} ({error})") from error


def leftover(shard: Shard, outcomes: Sequence[Outcome]) -> tuple[DigestedItem, ...]:
    """List the readable images after a shard's last whole group.

    There are some if others could not be read: groups consist of readable images, so these belong
    to one group with the first images of the next shard.
    """
    unread = {outcome.entry.digest for outcome in outcomes if not outcome.readable}
    readable = [entry for entry in shard.entries if entry.digest not in unread]
    return tuple(readable[len(readable) - len(readable) % shard.batch_size :])


def _extract(part: Store, shard: Shard, backbone: Backbone) -> None:
    places = {entry.item: index for index, entry in enumerate(shard.entries)}
    outcomes: list[tuple[int, str, bool]] = []
    for event in extract_site(part, shard.entries, backbone, shard.batch_size):
        if isinstance(event, Skipped):
            outcomes.append(
                (places[event.item], event.reason, _is_readable(event.item, part.settings.decoding))
            )
        else:
            outcomes.append((places[event.item], "", True))
    write_atomically(part.path / OUTCOMES, json.dumps(outcomes).encode())


def _is_readable(item: Item, decoding: Decoding) -> bool:
    try:
        load_image(item, decoding)
    except DataError:
        return False
    return True


def _check_seen(entries: Sequence[DigestedItem]) -> None:
    """Refuse to skip images that are missing only on this machine."""
    for entry in entries:
        image = entry.item.image
        if isinstance(image, Path) and not image.exists():
            raise DataError(
                f"a worker does not see the image {image.absolute()}; share its folder under the "
                "same path"
            )


@lru_cache(maxsize=1)
def _load(source: BackboneSource, _fingerprint: str, _threads: int) -> Backbone:
    """Keep a backbone for the next shard, unless it has other weights or threads."""
    return load_backbone(source.name, choose_compute(source.compute), source.grid)
