"""Speed and linear probe of backbones on CamVid, by hand.

    python benchmarks/backbones.py filterbank onnx:../shared/weights/squeezenet-stride8/model.onnx

from the repository's root; CamVid (480x360, 11 classes) is looked for in ../shared/data/camvid.
Takes about five minutes on 2 cores and 5.5 GB of memory. Speed: images per second of `extract` on
preloaded pixels, one image per call, 2 threads, best of three passes. Probe: official train -> test
images, 45x60 positions, majority labels, scores from summed counts; it reads labels, which
training never does.

    filterbank                144 channels   49 images/s   mIoU 0.381   accuracy 0.776
    onnx:.../model.onnx      1024 channels   25 images/s   mIoU 0.413   accuracy 0.794
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fusseg.evaluation.probe import linear_probe, majority_labels
from fusseg.features.backbones import Backbone, check_image_size, load_backbone

SIZE = (360, 480)
NUM_CLASSES = 11
NUM_TIMED = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="+", help="as in backbone.name")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = {split: read_images(arguments.data, split) for split in ("train", "test")}
    for name in arguments.backbones:
        backbone = load_backbone(name)
        check_image_size(backbone, SIZE)
        speed = images_per_second(backbone, images["test"][0][:NUM_TIMED])
        train, test = (
            (extract(backbone, pixels), positions(masks, backbone.stride))
            for pixels, masks in images.values()
        )
        scores = linear_probe(train, test, NUM_CLASSES)
        print(
            f"{name}: {backbone.feature_dim} channels, {speed:.1f} images/s, "
            f"mIoU {scores.mean_iou:.3f}, accuracy {scores.pixel_accuracy:.3f}"
        )


def read_images(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels and masks of one split."""
    with (root / "splits.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    pixels = [Image.open(root / row["site"] / "images" / f"{row['stem']}.jpg") for row in rows]
    masks = [Image.open(root / row["site"] / "masks" / f"{row['stem']}.png") for row in rows]
    return np.stack([image.convert("RGB") for image in pixels]), np.stack(masks)


def images_per_second(backbone: Backbone, pixels: np.ndarray) -> float:
    """Time extraction alone, one image per call, best of three passes."""
    images = torch.from_numpy(pixels)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for image in images:
            backbone.extract(image[None])
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


def extract(backbone: Backbone, pixels: np.ndarray) -> np.ndarray:
    """Extract float16 features of all images."""
    shape = (backbone.feature_dim, SIZE[0] // backbone.stride, SIZE[1] // backbone.stride)
    features = np.empty((len(pixels), *shape), np.float16)
    for index, image in enumerate(torch.from_numpy(pixels)):
        features[index] = backbone.extract(image[None])[0].numpy()
    return features


def positions(masks: np.ndarray, stride: int) -> np.ndarray:
    """Give each position of each mask its label."""
    return np.stack([majority_labels(mask, stride) for mask in masks])


if __name__ == "__main__":
    main()
