"""Measure speed and linear probe of backbones on the data of a configuration.

    python benchmarks/backbones.py benchmarks/camvid.toml filterbank \
        onnx:../shared/weights/squeezenet-stride8/model.onnx

from the repository's root. The probe is trained on the training sites and split, and tested on the
held-out ones. It reads labels, which training never does. A position has the majority label of its
cell; scores are computed from summed counts. Speed: images per second on preloaded pixels, one
image per call, 2 threads, best of three passes. CamVid takes about five minutes on 2 cores and
5.5 GB of memory. Measured figures are in docs/backbones.md.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fusseg.config.file import load_config
from fusseg.config.schema import DataConfig
from fusseg.data.images import fit_image, load_image
from fusseg.data.items import Classes, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.masks import fit_mask, load_mask
from fusseg.data.selection import select_held_out, select_training
from fusseg.evaluation.probe import linear_probe, majority_labels
from fusseg.features.backbones import Backbone, check_image_size, load_backbone

NUM_TIMED = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("backbones", nargs="+", help="as in backbone.name")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_config(arguments.config).data
    dataset = open_dataset(data)
    classes = dataset.classes
    assert classes is not None, "the probe needs labels and a classes.toml"
    parts = [
        (read_images(items, data), read_labels(items, classes, data))
        for items in (select_training(dataset, data), select_held_out(dataset, data))
    ]
    for name in arguments.backbones:
        backbone = load_backbone(name)
        check_image_size(backbone, data.image_size)
        speed = images_per_second(backbone, parts[1][0][:NUM_TIMED])
        train, test = (
            (
                extract(backbone, pixels),
                np.stack([majority_labels(mask, backbone.stride) for mask in masks]),
            )
            for pixels, masks in parts
        )
        scores = linear_probe(train, test, len(classes.names))
        print(
            f"{name}: {backbone.feature_dim} channels, {speed:.1f} images/s, "
            f"mIoU {scores.mean_iou:.3f}, accuracy {scores.pixel_accuracy:.3f}"
        )


def read_images(items: Sequence[Item], data: DataConfig) -> np.ndarray:
    return np.stack(
        [
            fit_image(load_image(item), data.image_size, data.fit, data.interpolation)
            for item in items
        ]
    )


def read_labels(items: Sequence[Item], classes: Classes, data: DataConfig) -> np.ndarray:
    return np.stack(
        [fit_mask(load_mask(item, classes), data.image_size, data.fit) for item in items]
    )


def images_per_second(backbone: Backbone, pixels: np.ndarray) -> float:
    images = torch.from_numpy(pixels)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for image in images:
            backbone.extract(image[None])
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


def extract(backbone: Backbone, pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[1] // backbone.stride, pixels.shape[2] // backbone.stride
    features = np.empty((len(pixels), backbone.feature_dim, height, width), np.float16)
    for index, image in enumerate(torch.from_numpy(pixels)):
        features[index] = backbone.extract(image[None])[0].numpy()
    return features


if __name__ == "__main__":
    main()
