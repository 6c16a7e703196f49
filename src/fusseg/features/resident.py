"""Feature maps of clients in the memory of a device, where training reads them directly."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from fusseg.config.compute import Compute
from fusseg.features.feature_set import FeatureSet

SHARE_OF_FREE_MEMORY = 0.5
"""Share of the device's free memory for feature maps; the rest is for training steps."""


@dataclass(frozen=True)
class ResidentFeatures:
    """All positions of a client's images, on a device."""

    positions: Float16[Tensor, "positions dim"]
    """Image by image, row by row."""
    map_shape: tuple[int, int, int]
    compute: Compute

    def __len__(self) -> int:
        height, width, _ = self.map_shape
        return len(self.positions) // (height * width)

    def gather(
        self, images: Int[Tensor, " images"], positions: Int[Tensor, "images positions"]
    ) -> Float[Tensor, "images positions dim"]:
        """Pick the features of some positions of some images, as `FeatureSet.gather` does."""
        height, width, _ = self.map_shape
        rows = self.compute.send(images[:, None] * (height * width) + positions)
        return self.positions[rows].float()


FeatureSource = FeatureSet | ResidentFeatures
"""Where the features of a training step come from."""


def make_resident(features: FeatureSet, compute: Compute) -> ResidentFeatures:
    """Copy a client's feature maps to a device, image by image."""
    height, width, dim = features.map_shape
    per_image = height * width
    shape = (len(features) * per_image, dim)
    positions = torch.empty(shape, dtype=torch.float16, device=compute.device)
    for image in range(len(features)):
        rows = features.feature_map(image).half().reshape(per_image, dim)
        positions[image * per_image : (image + 1) * per_image] = compute.send(rows)
    return ResidentFeatures(positions, features.map_shape, compute)


def keep_resident(compute: Compute) -> Callable[[str, FeatureSet], FeatureSource]:
    """Make a function that keeps clients' feature maps on the device while they fit.

    The returned function takes a client's id and its features. Maps that do not fit are read from
    disk when training needs them, and so are all maps if the device is the CPU.
    """
    kept: dict[str, ResidentFeatures] = {}

    def place(client_id: str, features: FeatureSet) -> FeatureSource:
        if client_id not in kept:
            height, width, dim = features.map_shape
            needed = len(features) * height * width * dim * torch.float16.itemsize
            if needed > SHARE_OF_FREE_MEMORY * compute.free_memory():
                return features
            kept[client_id] = make_resident(features, compute)
        return kept[client_id]

    return place
