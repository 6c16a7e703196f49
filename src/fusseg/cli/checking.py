"""The command that looks before anything runs: data, settings, disk and time."""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fusseg.cli.progress import Display
from fusseg.cli.starting import choose_config
from fusseg.compute import choose_compute
from fusseg.config import Config, DataConfig
from fusseg.config_file import load_config
from fusseg.data.check import check_sites
from fusseg.data.crops import cut_up
from fusseg.data.datasets import open_dataset, select_held_out, select_training
from fusseg.data.findings import Finding
from fusseg.data.images import fit_image, load_image
from fusseg.data.items import Item
from fusseg.data.survey import find_layout
from fusseg.errors import ConfigError, FussegError
from fusseg.features.backbones import Backbone, check_image_size, load_backbone
from fusseg.features.codecs import check_cache, row_type
from fusseg.federation.strategies import resolve_federation

_TIMED_IMAGES = 3


@dataclass(frozen=True)
class Estimate:
    """What extracting the features would take, on this machine."""

    num_images: int
    disk_bytes: int
    seconds: float
    free_bytes: int


def run_check(root: Path, backbone: str | None, image_size: str | None, cache: Path) -> bool:
    """Print what is there and what is wrong; False if a run would fail.

    Args:
        root: Folder of sites, or a configuration.
        backbone: Backbone to estimate for; None: the configuration's.
        image_size: HEIGHTxWIDTH to estimate for; None: the configuration's.
        cache: Where the features would go.

    Raises:
        ConfigError: If the root is a configuration that cannot be read, or a size is malformed.
    """
    config = _config(root, backbone, image_size)
    counts: Counter[str] = Counter()
    with Display() as display:

        def track(items: Sequence[Item]) -> Iterable[Item]:
            return _tracked(items, display)

        found = check_sites(config.data, track, config.local.batch_size)
        findings = (*found, *_check_settings(config))
        for finding in sorted(findings, key=lambda finding: _ORDER[finding.severity]):
            counts[finding.severity] += 1
            display.line(f"{finding.severity}: {finding.subject}: {finding.message}")
        try:
            estimate = estimate_features(config, cache)
        except FussegError as error:
            # What the data lack was said above already.
            if not any(finding.message == str(error) for finding in findings):
                counts["error"] += 1
                display.line(f"error: features: {error}")
        else:
            display.line(describe_estimate(estimate, config, cache))
            counts["error"] += estimate.disk_bytes > estimate.free_bytes
        display.line(
            ", ".join(_count(counts[severity], severity) for severity in reversed(_ORDER))
            + (": a run would fail" if counts["error"] else ": a run would start")
        )
    return counts["error"] == 0


_ORDER = {"note": 0, "warning": 1, "error": 2}


def estimate_features(config: Config, cache: Path) -> Estimate:
    """Measure the backbone on a few images and scale up to all that a run would extract.

    Raises:
        ConfigError: If the data or the backbone do not suit each other.
        DataError: If no image can be read.
    """
    dataset = open_dataset(config.data)
    training = cut_up(select_training(dataset, config.data), config.data.crops)
    items = (*training, *select_held_out(dataset, config.data))
    backbone = load_backbone(config.backbone.name, choose_compute(config.compute))
    check_image_size(backbone, config.data.image_size)
    check_cache(config.backbone, backbone.feature_dim)
    height, width = (side // backbone.stride for side in config.data.image_size)
    row = row_type(config.backbone.cache, (height, width, backbone.feature_dim))
    return Estimate(
        num_images=len(items),
        disk_bytes=len(items) * row.itemsize,
        seconds=len(items) * _seconds_per_image(backbone, items, config.data),
        free_bytes=shutil.disk_usage(_existing(cache)).free,
    )


def describe_estimate(estimate: Estimate, config: Config, cache: Path) -> str:
    """Say what extracting the features would take, and whether it fits."""
    height, width = config.data.image_size
    text = (
        f"features: {estimate.num_images} images with {config.backbone.name} at {height}x{width} "
        f"take about {estimate.disk_bytes / 1e6:.0f} MB in {cache} "
        f"({estimate.free_bytes / 1e6:.0f} MB free) and {_duration(estimate.seconds)}"
    )
    if estimate.disk_bytes > estimate.free_bytes:
        text = f"error: {text}; choose another cache with --cache, or a smaller data.image_size"
    return text


def _seconds_per_image(backbone: Backbone, items: Sequence[Item], data: DataConfig) -> float:
    seconds = []
    for item in items:
        try:
            started = time.perf_counter()
            image = load_image(item)
            seen = fit_image(image, data.image_size, data.fit, data.interpolation)
            with torch.inference_mode():
                backbone.extract(torch.from_numpy(seen)[None])
        except FussegError:
            # Named by `check_sites` already; a run skips it too.
            continue
        seconds.append(time.perf_counter() - started)
        if len(seconds) == _TIMED_IMAGES:
            break
    # The first passes warm up.
    return min(seconds, default=0.0)


def _config(root: Path, backbone: str | None, image_size: str | None) -> Config:
    is_file = root.is_file() or (root.suffix == ".toml" and not root.exists())
    config = load_config(root) if is_file else _config_of_folder(root, backbone)
    if backbone is not None:
        config = replace(config, backbone=replace(config.backbone, name=backbone))
    if image_size is not None:
        size = _parse_size(image_size)
        config = replace(config, data=replace(config.data, image_size=size))
    return config


def _config_of_folder(root: Path, backbone: str | None) -> Config:
    """Choose what `fusseg init` would; what is wrong with the folder is left to the findings."""
    data = DataConfig(root=str(root))
    try:
        data = find_layout(root)
        return choose_config(root, backbone or Config().backbone.name)
    except FussegError:
        return Config(data=data)


def _parse_size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--image-size must be HEIGHTxWIDTH, such as 320x480, got {text!r}")
    return int(height), int(width)


def _check_settings(config: Config) -> Iterator[Finding]:
    try:
        resolve_federation(config.federation, config.local)
    except ConfigError as error:
        yield Finding("error", "federation", str(error))


def _tracked(items: Sequence[Item], display: Display) -> Iterator[Item]:
    for done, item in enumerate(items, 1):
        yield item
        display.advance("checking images", done, len(items))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
