"""Measure the memory of extraction, training and evaluation by the number of images.

    OMP_NUM_THREADS=1 python -m benchmarks.memory --images 200 20000

Generates images of 224 x 224 with masks in a scratch folder and runs each stage in a process of its
own. Measured is anonymous resident memory, sampled every 10 ms. Memory-mapped feature files do not
count, because the system can drop them at any time. 20,000 images with the filter bank use 4.6 GB
of disk during the measurement and take about half an hour on one thread.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed.memory_meter import MemoryMeter
from fusseg.config.file import load_config
from fusseg.config.schema import Config
from fusseg.core.worker_processes import call_in_process
from fusseg.features.extraction import wait_for
from fusseg.runs.engine import RoundDone
from fusseg.runs.load import load_run
from fusseg.runs.model_scores import score_models
from fusseg.runs.prepare import prepare
from fusseg.runs.train import run_experiment

STAGES = ("extraction", "training", "evaluation")
_SIZE, _CELL = 224, 16
_CONFIG = """
[data]
root = "{root}"
image_size = [224, 224]
[backbone]
name = "{backbone}"
[model]
num_clusters = 6
[local]
steps = 20
[federation]
rounds = 3
[evaluation]
every = 0
at_sites = true
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--backbone", default="filterbank")
    parser.add_argument("--scratch", type=Path, help="folder with room for the features")
    arguments = parser.parse_args()
    print("| images | " + " | ".join(f"{stage}, MB" for stage in STAGES) + " | imports, MB |")
    print("|---|---|---|---|---|")
    for number in arguments.images:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            write_images(Path(scratch) / "data", number)
            text = _CONFIG.format(root=f"{scratch}/data", backbone=arguments.backbone)
            (Path(scratch) / "config.toml").write_text(text)
            found = [call_in_process(measure, stage, Path(scratch)) for stage in STAGES]
        peaks = " | ".join(f"{peak:.0f}" for _, peak in found)
        print(f"| {number} | {peaks} | {found[0][0]:.0f} |", flush=True)


def write_images(root: Path, number: int) -> None:
    """Write one site of different textures, with eight different masks."""
    generator = np.random.default_rng(0)
    images, masks = root / "site" / "images", root / "site" / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    cells = _SIZE // _CELL
    for index in range(number):
        regions = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        pixels = np.kron(regions, np.ones((_CELL, _CELL, 1), dtype=np.uint8))
        Image.fromarray(pixels).save(images / f"{index:06}.png", compress_level=1)
        mask = masks / f"{index:06}.png"
        if index < 8:
            labels = np.kron(generator.integers(0, 4, (cells, cells)), np.ones((_CELL, _CELL)))
            Image.fromarray(labels.astype(np.uint8)).save(mask)
        else:
            os.link(masks / f"{index % 8:06}.png", mask)


def measure(stage: str, scratch: Path) -> tuple[float, float]:
    """Run a stage in this process: memory of the imports, and peak memory, in MB."""
    with MemoryMeter() as meter:
        imports = _megabytes(meter.restart())
        run_stage(stage, load_config(scratch / "config.toml"), scratch)
        return imports, _megabytes(meter.restart())


def run_stage(stage: str, config: Config, scratch: Path) -> None:
    cache, run_dir = scratch / "cache", scratch / "run"
    if stage == "extraction":
        wait_for(prepare(config, cache))
    elif stage == "training":
        rounds = 0
        for event in run_experiment(config, run_dir, cache):
            rounds += isinstance(event, RoundDone)
            # After the last round the models are scored, which is the next stage.
            if rounds == config.federation.rounds - 1:
                break
    else:
        prepared = wait_for(prepare(config, cache))
        score_models(load_run(run_dir).segmenters, prepared.shown)


def _megabytes(size: int | None) -> float:
    if size is None:
        raise OSError("/proc/self/status has no RssAnon: this benchmark needs Linux")
    return size / 1e6


if __name__ == "__main__":
    main()
