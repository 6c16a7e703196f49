"""Generated inputs: features in memory, and folders of images."""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fusseg.config.schema import ModelConfig
from fusseg.features.feature_set import FeatureSet
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

NUM_CLASSES = 11
_CELL = 8
"""Side of a square of one color in a generated image, in pixels."""


def random_features(num_images: int, shape: tuple[int, int, int], seed: int = 0) -> FeatureSet:
    """Draw normal feature maps, kept in memory; a run maps them from disk instead."""
    maps = np.random.default_rng(seed).standard_normal((num_images, *shape), dtype=np.float32)
    rows = np.stack([np.zeros(num_images, dtype=np.int64), np.arange(num_images)], axis=1)
    names = tuple(f"{seed}/{image}" for image in range(num_images))
    return FeatureSet(
        names=names,
        digests=names,
        maps=(maps.astype(np.float16),),
        rows=rows,
        pooled=maps.mean(axis=(1, 2)),
        fingerprint="random",
    )


def random_model(dim: int, model: ModelConfig, seed: int = 0) -> Model:
    """Draw a head and centroids like those that training starts from."""
    generator = torch.Generator().manual_seed(seed)
    head = initial_head(dim, model.code_dim, generator)
    return Model(head, torch.randn(model.num_clusters, model.code_dim, generator=generator))


def plain_plan(dim: int, num_steps: int) -> TrainingPlan:
    """Plan some training steps on features that need no centering."""
    agreed = {"shift_self": 0.2, "shift_neighbor": 0.3, "shift_random": 0.1}
    return TrainingPlan(num_steps, torch.zeros(dim), agreed)


def random_codes(shape: tuple[int, ...], seed: int = 0) -> Float[Tensor, "..."]:
    """Draw normal codes."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write_images(folder: Path, num_images: int, side: int, sites: int = 2) -> None:
    """Write distinct images in the layout of sites, each with a mask.

    Args:
        folder: Folder to create.
        num_images: Number of images at all sites together.
        side: Height and width in pixels.
        sites: Number of sites.
    """
    for site in range(sites):
        for kind in ("images", "masks"):
            (folder / f"site-{site}" / kind).mkdir(parents=True)
    generator = np.random.default_rng(0)
    mask = folder / "mask.png"
    cells = -(-side // _CELL)
    classes = generator.integers(NUM_CLASSES, size=(cells, cells), dtype=np.uint8)
    Image.fromarray(_enlarge(classes, side)).save(mask)
    for image in range(num_images):
        site_folder = folder / f"site-{image % sites}"
        pixels = generator.integers(256, size=(cells, cells, 3), dtype=np.uint8)
        path = site_folder / "images" / f"{image:06d}.png"
        Image.fromarray(_enlarge(pixels, side)).save(path, compress_level=1)
        # One mask for all images: different labels would not change time or memory.
        os.link(mask, site_folder / "masks" / f"{image:06d}.png")
    names = ", ".join(f'"class {index}"' for index in range(NUM_CLASSES))
    (folder / "classes.toml").write_text(f"names = [{names}]\n")
    mask.unlink()


def _enlarge(cells: np.ndarray, side: int) -> np.ndarray:
    return cells.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[:side, :side]
