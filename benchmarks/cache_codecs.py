"""Measure the cost of keeping features in fewer bytes: disk, speed, and mIoU over seeds.

    OMP_NUM_THREADS=1 python benchmarks/cache_codecs.py benchmarks/camvid.toml \
        --set backbone.name=onnx:runs/squeezenet-256.onnx --seeds 3 --out cache-codecs.md

Every codec has its own cache in a scratch folder. Extraction is measured in processor time, over
all images and once per codec. Reading draws the positions of training batches from the first
client, and the codecs take turns. One thread, about a minute per codec and seed.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

import torch

from fusseg.config.file import build_settings, load_config
from fusseg.config.schema import Config
from fusseg.features.extraction import wait_for
from fusseg.features.feature_set import FeatureSet
from fusseg.runs.prepare import Prepared, prepare
from fusseg.runs.train import Finished, run_experiment
from fusseg.segmentation.objectives.stego import StegoSettings

_BATCHES = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--codecs", nargs="+", default=["float16", "int8", "pca:64", "pca:32"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    with tempfile.TemporaryDirectory() as scratch:
        table = compare(config, arguments.codecs, arguments.seeds, Path(scratch))
    print(table)
    if arguments.out:
        arguments.out.write_text(table + "\n")


def compare(config: Config, codecs: list[str], num_seeds: int, scratch: Path) -> str:
    prepared, extraction = {}, {}
    for codec in codecs:
        started = time.process_time()
        prepared[codec] = extracted(config, codec, scratch)
        extraction[codec] = time.process_time() - started
    reading = read_seconds([prepared[codec].clients[0].features for codec in codecs], config)
    plain = disk_bytes(scratch / codecs[0]), extraction[codecs[0]], reading[0]
    lines = [
        "| `backbone.cache` | MB on disk | of float16 | extraction, x float16's time "
        "| reading, x float16's | mIoU, mean ± std | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for codec, seconds in zip(codecs, reading, strict=True):
        scores = [
            100 * final_score(replaced(config, codec, seed), scratch, codec)
            for seed in range(num_seeds)
        ]
        size = disk_bytes(scratch / codec)
        listed = ", ".join(f"{score:.2f}" for score in scores)
        spread = stdev(scores) if len(scores) > 1 else 0.0
        lines.append(
            f"| `{codec}` | {size / 1e6:.1f} | {size / plain[0]:.3f} "
            f"| {extraction[codec] / plain[1]:.2f} | {seconds / plain[2]:.2f} "
            f"| {mean(scores):.2f} ± {spread:.2f} | {listed} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def replaced(config: Config, codec: str, seed: int) -> Config:
    return replace(config, seed=seed, backbone=replace(config.backbone, cache=codec))


def extracted(config: Config, codec: str, scratch: Path) -> Prepared:
    return wait_for(prepare(replaced(config, codec, 0), scratch / codec))


def disk_bytes(cache: Path) -> int:
    return sum(
        path.stat().st_size for path in cache.rglob("*") if path.is_file() and path.parent != cache
    )


def read_seconds(sets: list[FeatureSet], config: Config) -> list[float]:
    """Measure the median seconds per training batch of each set of features."""
    height, width, _ = sets[0].map_shape
    stego = build_settings(StegoSettings, config.local.tables.get("stego", {}), "local.stego.")
    generator = torch.Generator().manual_seed(0)
    seconds: list[list[float]] = [[] for _ in sets]
    for _ in range(_BATCHES):
        images = torch.randint(len(sets[0]), (2 * config.local.batch_size,), generator=generator)
        shape = (len(images), stego.positions)
        positions = torch.randint(height * width, shape, generator=generator)
        for features, found in zip(sets, seconds, strict=True):
            started = time.perf_counter()
            features.gather(images, positions)
            found.append(time.perf_counter() - started)
    return [median(found) for found in seconds]


def final_score(config: Config, scratch: Path, codec: str) -> float:
    run_dir = scratch / f"run-{codec}-{config.seed}"
    for event in run_experiment(config, run_dir, scratch / codec):
        if isinstance(event, Finished):
            score = event.record["final"]["mean_iou"]
            return float(score)
    raise RuntimeError(f"{run_dir} did not finish")


if __name__ == "__main__":
    main()
