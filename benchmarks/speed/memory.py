"""Rows about memory: extraction, training and evaluation with few and with many images."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.inputs import write_images
from benchmarks.speed.memory_meter import MemoryMeter, anonymous_bytes
from benchmarks.speed.rows import Figures, Limit, SpeedRow, missing_row, speed_row
from benchmarks.speed.sizes import Setting
from fusseg.config.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    LocalConfig,
)
from fusseg.core.worker_processes import call_in_process
from fusseg.features.extraction import wait_for
from fusseg.federation.state import ClientUpdate
from fusseg.runs.engine import TrainingBegun
from fusseg.runs.prepare import prepare
from fusseg.runs.train import run_experiment

CONSTANT = Limit("ratio", 1.1)
SMALL = Limit("peak_bytes", 2 * 2**30, says="at most 2 GiB")
_STAGES = ("extraction", "training", "evaluation")
_IMAGE_BYTES = 250_000
"""Disk space of a generated image, its mask and its features, at most."""


@dataclass(frozen=True)
class Peaks:
    """Highest anonymous memory of each stage, in bytes."""

    extraction: int
    training: int
    evaluation: int


def memory_rows(setting: Setting) -> list[SpeedRow]:
    """Compare memory at two numbers of images, each stage in a process of its own."""
    few, many = setting.sizes.memory_images
    size = f"{many} against {few} generated images of {_side_text(setting)}, filterbank"
    reason = _obstacle(setting, many)
    if reason:
        return [missing_row(f"memory, {stage}", size, CONSTANT, reason) for stage in _STAGES]
    small = measure_peaks(setting, "filterbank", few)
    large = measure_peaks(setting, "filterbank", many)
    rows = []
    for stage in _STAGES:
        least, most = getattr(small, stage), getattr(large, stage)
        rows.append(
            speed_row(
                f"memory, {stage}",
                size,
                Figures(ratio=most / least, peak_bytes=most),
                CONSTANT,
                f"floor: {least / 2**20:.0f} MiB at {few} images",
                (setting.sizes.name,),
            )
        )
    return rows


def given_backbone_memory_rows(setting: Setting) -> list[SpeedRow]:
    """Measure the same stages with the backbone named on the command line."""
    count = setting.sizes.onnx_images
    size = f"{count} generated images of {_side_text(setting)}"
    names = [f"memory, {stage}, given backbone" for stage in _STAGES]
    if setting.backbone is None:
        reason = "no backbone with weights was given; --backbone onnx:PATH"
        return [missing_row(name, size, SMALL, reason) for name in names]
    reason = _obstacle(setting, count)
    if reason:
        return [missing_row(name, size, SMALL, reason) for name in names]
    peaks = measure_peaks(setting, setting.backbone, count)
    return [
        speed_row(
            name,
            size,
            Figures(peak_bytes=getattr(peaks, stage)),
            SMALL,
            conditions=(setting.sizes.name,),
        )
        for name, stage in zip(names, _STAGES, strict=True)
    ]


def measure_peaks(setting: Setting, backbone: str, num_images: int) -> Peaks:
    """Extract, then train and evaluate on the cached features, in one process after another."""
    folder = setting.folder / f"memory-{num_images}-{backbone == 'filterbank'}"
    call_in_process(write_images, folder / "images", num_images, setting.sizes.side)
    config = Config(
        data=DataConfig(
            root=str(folder / "images"), image_size=(setting.sizes.side, setting.sizes.side)
        ),
        backbone=BackboneConfig(name=backbone),
        local=LocalConfig(steps=setting.sizes.memory_steps),
        federation=FederationConfig(rounds=1),
        evaluation=EvaluationConfig(at_sites=True),
    )
    extraction = call_in_process(_peak_of_extraction, config, folder / "cache")
    training, evaluation = call_in_process(_peaks_of_run, config, folder / "run", folder / "cache")
    shutil.rmtree(folder)
    return Peaks(extraction, training, evaluation)


def _peak_of_extraction(config: Config, cache: Path) -> int:
    with MemoryMeter() as meter:
        wait_for(prepare(config, cache))
        return _known(meter.restart())


def _peaks_of_run(config: Config, run_dir: Path, cache: Path) -> tuple[int, int]:
    """Split a run at its last client update: training before it, evaluation after it."""
    training = 0
    with MemoryMeter() as meter:
        for event in run_experiment(config, run_dir, cache):
            if isinstance(event, TrainingBegun | ClientUpdate):
                training = max(training, _known(meter.restart()))
        return training, _known(meter.restart())


def _known(peak: int | None) -> int:
    if peak is None:
        raise OSError("/proc/self/status has no RssAnon: memory is measured on Linux only")
    return peak


def _obstacle(setting: Setting, num_images: int) -> str:
    if anonymous_bytes() is None:
        return "needs /proc of Linux"
    free = shutil.disk_usage(setting.folder).free
    needed = num_images * _IMAGE_BYTES
    if free < needed:
        return (
            f"needs {needed / 1e9:.1f} GB of disk for {num_images} images, "
            f"{free / 1e9:.1f} GB are free"
        )
    return ""


def _side_text(setting: Setting) -> str:
    return f"{setting.sizes.side}x{setting.sizes.side}"
