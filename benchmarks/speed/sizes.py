"""The sizes of everything that is measured."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fusseg.config.schema import DeviceName


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of all measurements; the targets are meant for `FULL`."""

    name: str
    repeats: int
    """Timed calls of a stage and of its floor, alternately; the fastest of each counts."""
    side: int
    """Height and width of the generated images, in pixels."""
    extracted_images: int
    """Images for extraction with the filter bank, and preloaded for its floor."""
    slow_images: int
    """The same for slower backbones."""
    vit: tuple[int, int]
    """Channels and layers of the ViT with random weights that replaces one from the hub."""
    feature_dims: tuple[int, ...]
    """Channels of the features of a local step, D' in the paper."""
    client_images: int
    """Training images of a client."""
    steps: int
    """Optimizer steps of a timed call, which share its set-up time."""
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
    """Feature channels for the aggregation of moments (PCA)."""
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
    """How often a command is started."""

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
    """Settings that all measurements of one run share."""

    sizes: Sizes
    device: DeviceName
    """Device for training; everything else is measured on the processor."""
    backbone: str | None
    """A backbone with weights, such as `onnx:PATH`; None: its rows are not measured."""
    folder: Path
    """Folder for generated images, features and runs; emptied at the end."""

    @property
    def torch_device(self) -> torch.device:
        """The device, as a torch object."""
        return torch.device(self.device)
