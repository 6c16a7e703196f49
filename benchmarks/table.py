"""Run a configuration with every strategy and several seeds, and write the table.

    python benchmarks/table.py benchmarks/camvid.toml --out runs/camvid --cache runs/cache

Finished runs are kept and interrupted ones go on, so that a kill costs at most one round. The table
is written to `<out>/table.md`; those in benchmarks/results are copies of it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fusseg.anchors import features_anchor, pca_anchor
from fusseg.atomic import write_atomically
from fusseg.cli.progress import Display
from fusseg.cli.running import follow
from fusseg.config import Config
from fusseg.config_file import dump_config, load_config
from fusseg.experiment import run_experiment, score_models
from fusseg.federation.hello import agree, say_hello
from fusseg.preparation import Prepared, prepare
from fusseg.randomness import round_generator
from fusseg.record import GLOBAL
from fusseg.runs import load_record
from fusseg.segmentation.segmenter import build_segmenter

METHODS: dict[str, tuple[str, ...]] = {
    "local": ("federation.strategy=local",),
    "FedAvg": ("federation.strategy=fedavg",),
    "FedCC k-means, Euclidean": (
        "federation.strategy=fedcc-kmeans",
        "federation.distance=euclidean",
    ),
    "FedCC k-means, cosine": ("federation.strategy=fedcc-kmeans", "federation.distance=cosine"),
    "FedCC maximin, Euclidean": (
        "federation.strategy=fedcc-maximin",
        "federation.distance=euclidean",
    ),
    "FedCC maximin, cosine": ("federation.strategy=fedcc-maximin", "federation.distance=cosine"),
    "centralized": ("federation.strategy=centralized",),
}
ANCHORS = ("frozen features + spherical k-means", "PCA-70 + spherical k-means")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for method in arguments.methods:
            run_cell(arguments.config, method, seed, arguments.out, arguments.cache)
        run_anchors(arguments.config, seed, arguments.out, arguments.cache)
        write_table(arguments.out, [*ANCHORS, *arguments.methods], range(seed + 1))


def cell_path(out: Path, method: str, seed: int) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in method.lower())
    return out / f"{name}-{seed}"


def run_cell(config_path: Path, method: str, seed: int, out: Path, cache: Path) -> None:
    run_dir = cell_path(out, method, seed)
    config = load_config(config_path, [*METHODS[method], f"seed={seed}"])
    resume = (run_dir / "config.toml").exists()
    if resume and load_config(run_dir / "config.toml") != config:
        raise SystemExit(f"{run_dir} has another configuration; choose another --out")
    if resume and (run_dir / "record.json").exists() and load_record(run_dir)["final"]:
        return
    for _ in run_experiment(config, run_dir, cache, resume=resume):
        pass
    final = json.loads((run_dir / "record.json").read_text())["final"]
    print(f"{method}, seed {seed}: mIoU {final['mean_iou']:.4f}", flush=True)


def run_anchors(config_path: Path, seed: int, out: Path, cache: Path) -> None:
    config = load_config(config_path, [f"seed={seed}"])
    folders = [cell_path(out, anchor, seed) for anchor in ANCHORS]
    if all((folder / "record.json").exists() for folder in folders):
        if any(load_config(folder / "config.toml") != config for folder in folders):
            raise SystemExit(f"{folders[0]} has another configuration; choose another --out")
        return
    with Display() as display:
        prepared = follow(prepare(config, cache), display)
    mean_feature = _mean_feature(config, prepared)
    clusters = config.model.num_clusters
    generator = round_generator(seed, 0, "/anchors")
    models = (
        features_anchor(prepared.clients, mean_feature, clusters, generator),
        pca_anchor(prepared.clients, mean_feature, clusters, config.model.code_dim, generator),
    )
    for anchor, model in zip(ANCHORS, models, strict=True):
        segmenter = build_segmenter(model, mean_feature)
        final = score_models({GLOBAL: segmenter}, prepared.shown)
        run_dir = cell_path(out, anchor, seed)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(run_dir / "config.toml", dump_config(config).encode())
        write_atomically(run_dir / "record.json", json.dumps({"final": final}).encode())
        print(f"{anchor}, seed {seed}: mIoU {final['mean_iou']:.4f}", flush=True)


def _mean_feature(config: Config, prepared: Prepared) -> Any:  # noqa: ANN401
    hellos = [
        say_hello(client, config.local, config.seed, center=prepared.center)
        for client in prepared.clients
    ]
    fingerprint = prepared.backbone.fingerprint
    return agree(hellos, config.local, fingerprint, center=prepared.center).mean_feature


def write_table(out: Path, methods: Sequence[str], seeds: Sequence[int]) -> None:
    sites: list[str] = []
    rows = []
    for method in methods:
        finals = [
            json.loads((cell_path(out, method, seed) / "record.json").read_text())["final"]
            for seed in seeds
        ]
        sites = list(finals[0]["sites"])
        columns = [
            [final["mean_iou"] for final in finals],
            [final["pixel_accuracy"] for final in finals],
            *([final["sites"][site]["mean_iou"] for final in finals] for site in sites),
        ]
        rows.append(f"| {method} | " + " | ".join(map(spread, columns)) + " |")
    header = ["method", "mIoU", "pixel accuracy", *(f"mIoU {site}" for site in sites)]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *rows]
    (out / "table.md").write_text("\n".join(lines) + "\n")


def spread(values: Sequence[float]) -> str:
    percent = [100 * value for value in values]
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{mean(percent):.1f} ± {stdev(percent):.1f}"


if __name__ == "__main__":
    main()
