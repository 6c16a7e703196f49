"""Rows about evaluation: from given codes, and from features."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.inputs import (
    NUM_CLASSES,
    random_codes,
    random_features,
    random_model,
)
from benchmarks.speed.products import (
    Product,
    count_gflop,
    head_products,
    prepare_products,
    product_rate,
)
from benchmarks.speed.rows import Figures, Limit, SpeedRow, speed_row
from benchmarks.speed.sizes import Setting
from benchmarks.speed.timing import time_alternately
from fusseg.config.schema import ModelConfig
from fusseg.data.items import Classes, Item
from fusseg.evaluation.confusion import count_pixels
from fusseg.evaluation.held_out import HeldOut, evaluate
from fusseg.evaluation.quality import sum_quality
from fusseg.features.cache.store import FeatureSettings
from fusseg.features.views import View
from fusseg.segmentation.segmenter import (
    Segmenter,
    assign,
    build_segmenter,
    cosines,
    similarities,
)

CODES = Limit("seconds", 1 / 50, says="at least 50 images/s")
FEATURES = Limit("ratio", 1.3)
IMAGE_SIZE, MAP_SHAPE = (360, 480), (45, 60)
"""Height and width, in pixels and in positions at stride 8."""
MODEL = ModelConfig()
_CPU = torch.device("cpu")


def evaluation_rows(setting: Setting) -> list[SpeedRow]:
    """Measure the work for each held-out image, on the processor in float32."""
    dim = setting.sizes.scored_dim
    segmenter = build_segmenter(random_model(dim, MODEL), torch.zeros(dim))
    labels = _draw_labels()
    return [_codes_row(setting, segmenter, labels), _features_row(setting, segmenter, labels)]


def _codes_row(setting: Setting, segmenter: Segmenter, labels: torch.Tensor) -> SpeedRow:
    sizes = setting.sizes
    codes = random_codes((sizes.scored_images, *MAP_SHAPE, MODEL.code_dim))
    positions = MAP_SHAPE[0] * MAP_SHAPE[1]
    products = [Product(positions, MODEL.code_dim, segmenter.num_clusters, times=2)]

    def score_codes() -> None:
        for image in codes:
            sum_quality(cosines(segmenter, image))
            clusters = assign(similarities(segmenter, image), IMAGE_SIZE)
            count_pixels(clusters, labels, segmenter.num_clusters, NUM_CLASSES)

    floor = prepare_products(products, torch.float32, _CPU, sizes.scored_images)
    stage, multiplied = time_alternately([score_codes, floor], sizes.repeats)
    figures = Figures(
        stage.seconds / sizes.scored_images,
        multiplied.seconds / sizes.scored_images,
        peak_bytes=stage.peak_bytes,
        gflop=count_gflop(products),
        gflop_per_second=product_rate(torch.float32, _CPU, sizes.repeats),
    )
    assert figures.seconds is not None
    return speed_row(
        "evaluation from codes",
        f"{_size_text()}, K = {segmenter.num_clusters}, D = {MODEL.code_dim}",
        figures,
        CODES,
        f"{1 / figures.seconds:.0f} images/s",
        (sizes.name,),
    )


def _features_row(setting: Setting, segmenter: Segmenter, labels: torch.Tensor) -> SpeedRow:
    sizes = setting.sizes
    held_out = _hold_out(setting.folder / "scored", sizes.scored_images, sizes.scored_dim, labels)
    products = head_products(MAP_SHAPE[0] * MAP_SHAPE[1], sizes.scored_dim, MODEL.code_dim)
    floor = prepare_products(products, torch.float32, _CPU, sizes.scored_images)
    stage, multiplied = time_alternately(
        [lambda: evaluate(segmenter, held_out), floor], sizes.repeats
    )
    figures = Figures(
        stage.seconds / sizes.scored_images,
        multiplied.seconds / sizes.scored_images,
        peak_bytes=stage.peak_bytes,
        gflop=count_gflop(products),
        gflop_per_second=product_rate(torch.float32, _CPU, sizes.repeats),
    )
    return speed_row(
        "evaluation from features",
        f"{_size_text()}, K = {segmenter.num_clusters}, D' = {sizes.scored_dim}, "
        f"D = {MODEL.code_dim}",
        figures,
        FEATURES,
        "per image, with masks read from PNG files",
        (sizes.name,),
    )


def _hold_out(folder: Path, num_images: int, dim: int, labels: torch.Tensor) -> HeldOut:
    folder.mkdir(parents=True)
    settings = FeatureSettings("random", "random", IMAGE_SIZE, "stretch", "bilinear")
    views = []
    for image in range(num_images):
        mask = folder / f"{image:06d}.png"
        Image.fromarray(labels.numpy()).save(mask)
        views.append(View(Item("site", mask.stem, "", mask, mask), settings))
    classes = Classes(tuple(f"class {index}" for index in range(NUM_CLASSES)))
    return HeldOut(tuple(views), random_features(num_images, (*MAP_SHAPE, dim)), classes)


def _draw_labels() -> torch.Tensor:
    """Draw labels in squares of 8 pixels, as regions rather than noise."""
    cells = np.random.default_rng(0).integers(NUM_CLASSES, size=MAP_SHAPE, dtype=np.uint8)
    return torch.from_numpy(cells.repeat(8, axis=0).repeat(8, axis=1))


def _size_text() -> str:
    return f"{IMAGE_SIZE[1]}x{IMAGE_SIZE[0]}"
