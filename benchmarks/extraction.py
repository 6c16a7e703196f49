"""Measure extraction against the backbone's own forward time, and its memory, in one process.

    python benchmarks/extraction.py benchmarks/camvid.toml --limit 100

Images are decoded and fitted beforehand for the forward time, which is taken before and after the
extraction and averaged, because machines drift. Memory is the anonymous part of the resident set:
memory-mapped files do not count. On 2 cores with --limit 100 it takes about a minute.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fusseg.config_file import load_config
from fusseg.data.datasets import open_dataset, select_held_out, select_training
from fusseg.data.images import fit_image, load_image
from fusseg.features.backbones import Backbone, load_backbone
from fusseg.features.extraction import extract_features
from fusseg.features.views import training_views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--limit", type=int, default=100, help="images")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    dataset = open_dataset(config.data)
    items = (*select_training(dataset, config.data), *select_held_out(dataset, config.data))
    items = items[: arguments.limit]
    backbone = load_backbone(config.backbone.name)
    data, size = config.data, config.backbone.batch_size
    views = training_views(items, backbone, config)
    # A few distinct images are enough for the forward time; all of them would not fit for large n.
    batches = [
        torch.from_numpy(
            np.stack(
                [
                    fit_image(load_image(item), data.image_size, data.fit, data.interpolation)
                    for item in items[start : start + config.backbone.batch_size]
                ]
            )
        )
        for start in range(0, min(len(items), 64), config.backbone.batch_size)
    ]
    before = forward_seconds(backbone, batches)
    idle = anonymous_megabytes()
    peak = idle
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        for step, _ in enumerate(extract_features(views, backbone, size, Path(cache))):
            if step % 20 == 0:
                peak = max(peak, anonymous_megabytes())
        seconds = (time.perf_counter() - started) / len(items)
    forward = (before + forward_seconds(backbone, batches)) / 2
    print(
        f"{config.backbone.name}, {len(items)} images at {data.image_size}, "
        f"{torch.get_num_threads()} threads: forward {1000 * forward:.1f} ms an image, extraction "
        f"{1000 * seconds:.1f} ms, ratio {seconds / forward:.2f}; anonymous memory "
        f"{idle:.0f} MB before, at most {peak:.0f} MB during"
    )


def forward_seconds(backbone: Backbone, batches: list[torch.Tensor]) -> float:
    with torch.inference_mode():
        backbone.extract(batches[0])
        started = time.perf_counter()
        for batch in batches:
            backbone.extract(batch)
    return (time.perf_counter() - started) / sum(len(batch) for batch in batches)


def anonymous_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon: this benchmark needs Linux")


if __name__ == "__main__":
    main()
