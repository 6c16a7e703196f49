"""Measure the memory of extraction, training and evaluation by the number of images.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --images 200 20000

Generates images of 224 x 224 with masks in a scratch folder and runs each stage in a process of its
own. What is measured is anonymous resident memory, sampled every 10 ms: memory-mapped feature files
do not count, the system drops them when it needs the room. 20,000 images with the filter bank fill
4.6 GB of disk for the time of the measurement and take about half an hour on one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fusseg.config.file import load_config
from fusseg.config.schema import Config
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
    parser.add_argument("--stage", choices=STAGES, help="used by the script itself")
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(measure(arguments.stage, arguments.scratch)))
        return
    print("| images | " + " | ".join(f"{stage}, MB" for stage in STAGES) + " | imports, MB |")
    print("|---|---|---|---|---|")
    for number in arguments.images:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            write_images(Path(scratch) / "data", number)
            text = _CONFIG.format(root=f"{scratch}/data", backbone=arguments.backbone)
            (Path(scratch) / "config.toml").write_text(text)
            found = [in_own_process(stage, Path(scratch)) for stage in STAGES]
        peaks = " | ".join(f"{one['peak']:.0f}" for one in found)
        print(f"| {number} | {peaks} | {found[0]['imports']:.0f} |", flush=True)


def write_images(root: Path, number: int) -> None:
    """Write one site of textures, each another, and masks, of which there are eight."""
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


def in_own_process(stage: str, scratch: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--stage", stage, "--scratch", str(scratch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(stage: str, scratch: Path) -> dict[str, float]:
    config = load_config(scratch / "config.toml")
    imports = anonymous_megabytes()
    with sampling() as memory:
        run_stage(stage, config, scratch)
    return {"imports": imports, "peak": memory.peak}


def run_stage(stage: str, config: Config, scratch: Path) -> None:
    cache, run_dir = scratch / "cache", scratch / "run"
    if stage == "extraction":
        wait_for(prepare(config, cache))
    elif stage == "training":
        rounds = 0
        for event in run_experiment(config, run_dir, cache):
            rounds += isinstance(event, RoundDone)
            # The last round would be scored, which is the next stage.
            if rounds == config.federation.rounds - 1:
                break
    else:
        prepared = wait_for(prepare(config, cache))
        score_models(load_run(run_dir).segmenters, prepared.shown)


@dataclass
class Memory:
    """The largest sample so far, in MB."""

    peak: float = 0.0


@contextmanager
def sampling() -> Iterator[Memory]:
    """Take the largest of many samples while the context lasts."""
    memory, over = Memory(), threading.Event()

    def sample() -> None:
        while not over.is_set():
            memory.peak = max(memory.peak, anonymous_megabytes())
            time.sleep(0.01)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def anonymous_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status has no RssAnon: this benchmark needs Linux")


if __name__ == "__main__":
    main()
