"""The sizes of everything that is measured."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fusseg.config.schema import DeviceName


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of all rows; the targets are meant for `FULL`."""

    name: str
    repeats: int
    """Timed calls of a stage and of its floor, taken alternately; the fastest of each counts."""
    side: int
    """Height and width of the generated images, in pixels."""
    extracted_images: int
    """Images that are extracted, and that the backbone sees preloaded: with the filter bank."""
    slow_images: int
    """The same, with backbones that take longer."""
    vit: tuple[int, int]
    """Channels and layers of the ViT with random weights that stands for the hub's."""
    feature_dims: tuple[int, ...]
    """Channels of the features of a local step, D' in the paper."""
    client_images: int
    """Images of a client in training."""
    steps: int
    """Optimizer steps of a call, over which its set-up is spread."""
    round_clients: int
    round_steps: int
    round_dim: int
    small_clients: int
    """Clients that train in one batched step."""
    small_dim: int
    small_steps: int
    pooled_clients: int
    """Clients whose centroids are aggregated."""
    moments_dim: int
    """Channels of the features whose moments are aggregated (PCA)."""
    neighbor_images: int
    neighbor_dim: int
    neighbor_repeats: int
    memory_images: tuple[int, int]
    """Two numbers of images between which memory must not grow."""
    onnx_images: int
    memory_steps: int
    scored_images: int
    scored_dim: int
    started_processes: int
    """Times a command is started."""

    @property
    def map_side(self) -> int:
        """Height and width of their feature maps at stride 8."""
        return self.side // 8


FULL = Sizes(
    name="full",
    repeats=7,
    side=224,
    extracted_images=256,
    slow_images=48,
    vit=(384, 12),
    feature_dims=(768, 384, 256, 144),
    client_images=64,
    steps=10,
    round_clients=3,
    round_steps=25,
    round_dim=768,
    small_clients=18,
    small_dim=384,
    small_steps=10,
    pooled_clients=1000,
    moments_dim=768,
    neighbor_images=100_000,
    neighbor_dim=768,
    neighbor_repeats=2,
    memory_images=(200, 20_000),
    onnx_images=200,
    memory_steps=10,
    scored_images=32,
    scored_dim=768,
    started_processes=9,
)
QUICK = Sizes(
    name="quick",
    repeats=3,
    side=224,
    extracted_images=64,
    slow_images=8,
    vit=(384, 2),
    feature_dims=(768, 384, 256, 144),
    client_images=32,
    steps=5,
    round_clients=3,
    round_steps=8,
    round_dim=384,
    small_clients=18,
    small_dim=144,
    small_steps=2,
    pooled_clients=200,
    moments_dim=256,
    neighbor_images=10_000,
    neighbor_dim=768,
    neighbor_repeats=2,
    memory_images=(40, 400),
    onnx_images=16,
    memory_steps=3,
    scored_images=8,
    scored_dim=768,
    started_processes=3,
)


@dataclass(frozen=True)
class Setting:
    """What all measurements of one run share."""

    sizes: Sizes
    device: DeviceName
    """Where training is measured; all else is measured on the processor."""
    backbone: str | None
    """A backbone with weights, such as `onnx:PATH`; None: the rows that need one are left out."""
    folder: Path
    """Where generated images, features and runs go; emptied at the end."""

    @property
    def torch_device(self) -> torch.device:
        """The device as torch calls it."""
        return torch.device(self.device)
