"""The command `fusseg doctor`: what is installed, available and cached."""

import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from fusseg.cli.extras import EXTRAS
from fusseg.config.compute import choose_compute, has_bfloat16
from fusseg.config.schema import ComputeConfig
from fusseg.core.visible_text import say
from fusseg.features.cache.store import list_stores
from fusseg.runs.record import versions

_LOW_DISK = 2 * 10**9


def run_doctor(cache: Path) -> None:
    """Print versions, extras, devices and what is cached; nothing is downloaded or written."""
    for line in describe_installation(cache):
        say(line)


def describe_installation(cache: Path) -> Iterator[str]:
    """Describe what is installed, which devices are available and which weights are cached.

    Args:
        cache: Folder of the feature cache.

    Yields:
        Lines to print.
    """
    known = dict(versions())
    yield f"fusseg {known['fusseg']}, Python {known['python']}, {known['platform']}"
    packages = ("torch", "numpy", "onnxruntime", "transformers", "safetensors", "pillow")
    yield "packages: " + ", ".join(f"{name} {known[name]}" for name in packages)
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if not missing:
            yield f"extra {extra}: installed ({', '.join(map(_version, modules))})"
        else:
            yield (
                f"extra {extra}: {', '.join(missing)} missing; "
                f"pip install 'fusseg[{extra}]' if you need it"
            )
    yield from _devices(known)
    yield from _feature_cache(cache)
    yield from _cached_weights()


def _version(module: str) -> str:
    # The module mlflow also comes with the package mlflow-skinny.
    found = metadata.packages_distributions().get(module, ())
    return f"{module} {metadata.version(found[0])}" if found else module


def _devices(known: dict[str, object]) -> Iterator[str]:
    cpu = torch.device("cpu")
    products = (
        "in hardware" if has_bfloat16(cpu) else "emulated, so do not set compute.precision to it"
    )
    yield (
        f"processor: {known['cores']} cores, torch uses {known['threads']} threads and "
        f"{known['cpu_capability']}; bfloat16 {products}"
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory
            yield f"cuda:{index}: {torch.cuda.get_device_name(index)}, {memory / 2**30:.0f} GiB"
    else:
        yield "cuda: none"
    yield f"mps: {'available' if torch.backends.mps.is_available() else 'none'}"
    yield f"compute.device = 'auto' trains on: {choose_compute(ComputeConfig()).device.type}"


def _feature_cache(cache: Path) -> Iterator[str]:
    stores = list_stores(cache) if cache.is_dir() else []
    images = sum(len(store.digests()) for store in stores)
    yield f"feature cache: {cache}, {len(stores)} stores, {images} images"
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    low = "; that is little, so choose another folder with --cache or FUSSEG_CACHE"
    yield f"free disk there: {free / 1e9:.1f} GB{low if free < _LOW_DISK else ''}"
    if not os.access(existing, os.W_OK):
        yield f"{existing} is not writable; choose another folder with --cache or FUSSEG_CACHE"


def _cached_weights() -> Iterator[str]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    folder = constants.HF_HUB_CACHE
    try:
        found = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        found = []
    yield f"weights cached in {folder}: {'none' if not found else ''}".rstrip()
    for repo in sorted(found, key=lambda repo: repo.repo_id):
        yield f"  {repo.repo_id} ({repo.size_on_disk / 1e6:.0f} MB)"
