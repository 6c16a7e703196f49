"""The command `fusseg check`: data, settings, disk and time, before anything runs."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from fusseg.cli.first_config import choose_config
from fusseg.cli.progress import Display
from fusseg.cli.summaries import describe_finding
from fusseg.config.file import load_config
from fusseg.config.schema import BackboneConfig, Config, DataConfig
from fusseg.core.errors import ConfigError, FussegError
from fusseg.data.checks.check import check_sites
from fusseg.data.checks.survey import find_layout
from fusseg.data.findings import Finding, counted
from fusseg.data.images import decoding_of, fit_image, load_image
from fusseg.data.items import Item
from fusseg.features.backbones import Backbone
from fusseg.features.cache.codecs import row_type
from fusseg.features.views import with_mirrored
from fusseg.runs.prepare import Lookup, look_up_new

_TIMED_IMAGES = 3
_ORDER = {"note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Estimate:
    """Cost of extracting the features on this machine."""

    num_images: int
    disk_bytes: int
    seconds: float
    free_bytes: int


def run_check(root: Path, backbone: str | None, image_size: str | None, cache: Path) -> bool:
    """Print what is wrong and what the features would cost.

    Args:
        root: Folder of sites, or a configuration.
        backbone: Backbone to estimate for; None: the configuration's.
        image_size: HEIGHTxWIDTH to estimate for; None: the configuration's.
        cache: Feature cache.

    Returns:
        False if a run would fail.

    Raises:
        ConfigError: If the root is a configuration that cannot be read, or the size is malformed.
    """
    config = _config(root, backbone, image_size)
    counts: Counter[str] = Counter()
    with Display() as display:
        track = partial(_tracked, display=display)
        at_sites = config.evaluation.at_sites
        findings = [*check_sites(config.data, track, config.local.batch_size, at_sites=at_sites)]
        lookup: Lookup | None = None
        try:
            lookup = look_up_new(config)
        except FussegError as error:
            # The checks above may have found the same.
            if str(error) not in {finding.message for finding in findings}:
                findings.append(Finding("error", "settings", str(error)))
        for finding in sorted(findings, key=lambda finding: _ORDER[finding.severity]):
            counts[finding.severity] += 1
            display.line(describe_finding(finding), keep="\n")
        if lookup is not None:
            estimate = estimate_features(lookup, config, cache)
            display.line(describe_estimate(estimate, config, cache))
            counts["error"] += estimate.disk_bytes > estimate.free_bytes
        display.line(
            ", ".join(counted(counts[severity], severity) for severity in reversed(_ORDER))
            + (": a run would fail" if counts["error"] else ": a run would start")
        )
    return counts["error"] == 0


def estimate_features(lookup: Lookup, config: Config, cache: Path) -> Estimate:
    """Time the backbone on a few images, and scale the time up to all images of a run."""
    backbone = lookup.backbone
    views = (*lookup.training, *lookup.zoomed, *with_mirrored(lookup.shown, config.evaluation))
    # The client of an image and its mask do not affect its features.
    distinct = {replace(view, item=replace(view.item, mask=None, client="")) for view in views}
    sizes = Counter(view.settings.image_size for view in distinct)
    items = [view.item for view in lookup.training]
    return Estimate(
        num_images=len(distinct),
        disk_bytes=sum(
            number * _row_bytes(size, backbone, config) for size, number in sizes.items()
        ),
        seconds=len(distinct) * _seconds_per_image(backbone, items, config.data),
        free_bytes=shutil.disk_usage(_existing(cache)).free,
    )


def _row_bytes(size: tuple[int, int], backbone: Backbone, config: Config) -> int:
    height, width = (side // backbone.stride for side in size)
    shape = (height, width, backbone.feature_dim)
    return row_type(config.backbone.cache, shape).itemsize


def describe_estimate(estimate: Estimate, config: Config, cache: Path) -> str:
    """Describe the cost of extracting the features, and whether they fit on the disk."""
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
            image = load_image(item, decoding_of(data))
            seen = fit_image(image, data.image_size, data.fit, data.interpolation)
            with torch.inference_mode():
                backbone.extract(torch.from_numpy(seen)[None])
        except FussegError:
            # `check_sites` has named the image; a run skips it too.
            continue
        seconds.append(time.perf_counter() - started)
        if len(seconds) == _TIMED_IMAGES:
            break
    # The minimum, because the first passes only warm up.
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
    """Choose the settings as `fusseg init` would; findings report what is wrong with the folder."""
    data = DataConfig(root=str(root))
    try:
        data = find_layout(root)
        return choose_config(root, BackboneConfig(name=backbone or Config().backbone.name))
    except FussegError:
        return Config(data=data)


def _parse_size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--image-size must be HEIGHTxWIDTH, such as 320x480, got {text!r}")
    return int(height), int(width)


def _tracked(items: Sequence[Item], display: Display) -> Iterator[Item]:
    for done, item in enumerate(items, 1):
        yield item
        display.advance("checking images", done, len(items))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
