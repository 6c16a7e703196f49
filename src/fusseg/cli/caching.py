"""Commands that show and empty the feature cache."""

import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from fusseg.errors import ConfigError
from fusseg.features.store import Store, list_stores

_DAY = 24 * 60 * 60


def list_cache(cache: Path) -> None:
    """Print one row per site, backbone and size."""
    stores = list_stores(cache) if cache.is_dir() else []
    console = Console()
    if not stores:
        console.print(f"the cache {cache} is empty", markup=False, highlight=False, soft_wrap=True)
        return
    table = Table("site", "backbone", "size", "images", "MB", "last used (days ago)")
    for store in stores:
        height, width = store.settings.image_size
        table.add_row(
            store.site,
            store.settings.backbone,
            f"{height}x{width}",
            str(len(store.digests())),
            f"{_bytes(store.path) / 1e6:.1f}",
            f"{_age(store) / _DAY:.1f}",
        )
    console.print(table)
    total = sum(_bytes(store.path) for store in stores)
    console.print(f"{total / 1e6:.1f} MB in {cache}", markup=False, highlight=False, soft_wrap=True)


def prune_cache(
    cache: Path,
    older_than: float | None,
    backbone: str | None,
    site: str | None,
    *,
    everything: bool,
) -> None:
    """Delete what all given conditions hold for; a store in use stays.

    Raises:
        ConfigError: If no condition is given.
    """
    if older_than is None and backbone is None and site is None and not everything:
        raise ConfigError("say what to prune: --older-than DAYS, --backbone, --site, or --all")
    console = Console(soft_wrap=True)
    freed = 0
    for store in list_stores(cache) if cache.is_dir() else []:
        if older_than is not None and _age(store) < older_than * _DAY:
            continue
        if backbone is not None and store.settings.backbone != backbone:
            continue
        if site is not None and store.site != site:
            continue
        size = _bytes(store.path)
        if _delete(store):
            freed += size
            console.print(f"deleted {store.path.name}", markup=False, highlight=False)
        else:
            console.print(f"in use, kept: {store.path.name}", markup=False, highlight=False)
    if everything:
        shutil.rmtree(cache / "neighbors", ignore_errors=True)
    console.print(f"freed {freed / 1e6:.1f} MB", markup=False, highlight=False)


def _delete(store: Store) -> bool:
    try:
        with FileLock(store.path / "lock", timeout=0):
            shutil.rmtree(store.path)
    except Timeout:
        return False
    return True


def _age(store: Store) -> float:
    return time.time() - (store.path / "meta.json").stat().st_mtime


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
