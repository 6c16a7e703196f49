"""Compare extraction with the backbone's own forward time on decoded images, in one process.

    python benchmarks/extraction.py benchmarks/camvid.toml --limit 60 --threads 2 --repeats 5

Forward passes and extractions take turns, because the speed of machines drifts. Each extraction
reads, decodes, fits, runs the backbone and writes a new cache. The work other than the backbone's
is measured first, in processor time with one thread. It overlaps with the backbone while a core is
free. If all cores run the backbone it cannot overlap, and the best possible ratio is the forward
time divided by the sum of forward time and this work divided by the cores.
Other backbones: --set backbone.name=...
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from fusseg.config.compute import choose_compute
from fusseg.config.file import load_config
from fusseg.config.schema import Config
from fusseg.data.images import fit_image, load_image
from fusseg.data.items import Item
from fusseg.data.layouts import open_dataset
from fusseg.data.selection import select_held_out, select_training
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import extract_features, wait_for
from fusseg.features.views import training_views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--limit", type=int, default=60, help="number of images")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    dataset = open_dataset(config.data)
    items = (*select_training(dataset, config.data), *select_held_out(dataset, config.data))
    items = items[: arguments.limit]
    images = [fitted(item, config) for item in items]
    backbone = load(config, threads=1)
    pairs = both(backbone, items, images, config, time.process_time, arguments.repeats)
    other = median(extraction - forward for forward, extraction in pairs)
    backbone = load(config, threads=arguments.threads)
    pairs = both(backbone, items, images, config, time.perf_counter, arguments.repeats)
    shares = sorted(forward / extraction for forward, extraction in pairs)
    forward = median(forward for forward, _ in pairs)
    most = forward / (forward + other / (os.cpu_count() or 1))
    print(
        f"{config.backbone.name} ({backbone.precision}), {len(items)} images at "
        f"{config.data.image_size}, {arguments.threads} threads of {os.cpu_count()} cores: forward "
        f"{1000 * forward:.1f} ms an image, extraction at {median(shares):.2f} of the backbone's "
        f"throughput ({shares[0]:.2f} to {shares[-1]:.2f}); other work {1000 * other:.1f} ms of "
        f"processor time an image: at most {most:.2f} with the backbone on all cores"
    )


def load(config: Config, threads: int) -> Backbone:
    torch.set_num_threads(threads)
    return load_backbone(config.backbone.name, choose_compute(config.compute))


def fitted(item: Item, config: Config) -> np.ndarray:
    data = config.data
    return fit_image(load_image(item), data.image_size, data.fit, data.interpolation)


def both(
    backbone: Backbone,
    items: tuple[Item, ...],
    images: list[np.ndarray],
    config: Config,
    clock: Callable[[], float],
    repeats: int,
) -> list[tuple[float, float]]:
    """Measure seconds an image of the forward passes alone and of the extraction, alternately."""
    forward(backbone, images[:2], config)
    extract(backbone, items[:2], config)
    pairs = []
    for _ in range(repeats):
        times = [clock()]
        forward(backbone, images, config)
        times.append(clock())
        extract(backbone, items, config)
        times.append(clock())
        pairs.append(((times[1] - times[0]) / len(items), (times[2] - times[1]) / len(items)))
    return pairs


def forward(backbone: Backbone, images: list[np.ndarray], config: Config) -> None:
    size = config.backbone.batch_size
    with torch.inference_mode():
        for start in range(0, len(images), size):
            backbone.extract(torch.from_numpy(np.stack(images[start : start + size])))


def extract(backbone: Backbone, items: tuple[Item, ...], config: Config) -> None:
    views = training_views(items, backbone, config)
    with tempfile.TemporaryDirectory() as cache:
        wait_for(extract_features(views, backbone, config.backbone.batch_size, Path(cache)))


if __name__ == "__main__":
    main()
