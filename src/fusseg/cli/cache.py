"""The command `fusseg cache`: list the feature cache, or delete parts of it."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fusseg.core.errors import ConfigError, DataError
from fusseg.core.visible_text import say, visible
from fusseg.features.cache.store import FeatureSettings, Store, list_stores

_DAY = 24 * 60 * 60


def choose_stores(
    cache: Path, older_than: float | None, backbone: str | None, site: str | None
) -> list[Store]:
    """Pick the stores that meet all given conditions.

    Args:
        cache: Cache folder; a missing one counts as empty.
        older_than: Least number of days without use, or None.
        backbone: Name of a backbone, or None.
        site: Name of a site, or None.

    Raises:
        ConfigError: If the cache is not a folder, or the days are below 0.
    """
    if older_than is not None and not older_than >= 0:
        raise ConfigError(f"--older-than must be at least 0, got {older_than:g}")
    if cache.exists() and not cache.is_dir():
        raise ConfigError(
            f"the cache {cache} is not a folder; choose another with --cache or FUSSEG_CACHE"
        )
    return [
        store
        for store in list_stores(cache)
        if (older_than is None or _age(store) >= older_than * _DAY)
        and backbone in (None, store.settings.backbone)
        and site in (None, store.site)
    ]


def list_cache(cache: Path, stores: Sequence[Store]) -> None:
    """Print one row per site, backbone and image size."""
    if not stores:
        say(f"nothing in the cache {cache}")
        return
    table = Table("site", "backbone", "size", "images", "MB", "last used (days ago)")
    for store in stores:
        height, width = store.settings.image_size
        table.add_row(
            escape(visible(store.site)),
            escape(visible(store.settings.backbone)),
            f"{height}x{width}{_variant(store.settings)}",
            str(len(store.digests())),
            f"{_bytes(store.path) / 1e6:.1f}",
            f"{_age(store) / _DAY:.1f}",
        )
    Console().print(table)
    total = sum(_bytes(store.path) for store in stores)
    say(f"{total / 1e6:.1f} MB in {cache}")


def _variant(settings: FeatureSettings) -> str:
    """Name the settings of features that differ from the usual ones."""
    differences = (
        "mirrored" if settings.mirrored else "",
        "zoomed" if settings.zoomed else "",
        settings.precision if settings.precision != "float32" else "",
        settings.cache if settings.cache != "float16" else "",
    )
    return "".join(f" {difference}" for difference in differences if difference)


def prune_cache(cache: Path, stores: Sequence[Store], *, everything: bool) -> None:
    """Delete stores; keep one that is in use.

    Args:
        cache: Cache folder.
        stores: Stores to delete.
        everything: Also delete nearest neighbors and masks, of all sites and backbones.

    Raises:
        DataError: If a folder cannot be deleted.
    """
    freed = 0
    for store in stores:
        size = _bytes(store.path)
        if _delete(store):
            freed += size
            say(f"deleted {store.path.name}")
        else:
            say(f"in use, kept: {store.path.name}")
    if everything:
        for name in ("neighbors", "masks"):
            _delete_folder(cache / name)
    say(f"freed {freed / 1e6:.1f} MB")


def _delete(store: Store) -> bool:
    try:
        with FileLock(store.path / "lock", timeout=0):
            shutil.rmtree(store.path)
    except Timeout:
        return False
    except OSError as error:
        raise _undeletable(store.path, error) from error
    return True


def _delete_folder(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass  # nothing was trained yet
    except OSError as error:
        raise _undeletable(folder, error) from error


def _undeletable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot delete the cache folder {folder}: {error.strerror}; "
        "make it writable or delete it by hand"
    )


def _age(store: Store) -> float:
    return time.time() - (store.path / "meta.json").stat().st_mtime


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
