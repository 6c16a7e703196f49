"""One thread, few examples, and the tiny inputs that all levels share."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Generator, Tensor

from fusseg.features.feature_set import FeatureSet
from fusseg.federation.state import ClientUpdate, GlobalState
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

torch.set_num_threads(1)
# The same few examples in every run, so that it fails for what was changed; many others by hand.
settings.register_profile("fusseg", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("fusseg")


@pytest.fixture(scope="session")
def seeded() -> Callable[[int], Generator]:
    """Random source with a seed."""
    return lambda seed: Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def make_features() -> Callable[..., FeatureSet]:
    """Features in memory of maps of shape images, height, width, dim."""

    def make(maps: np.ndarray | Tensor, *, name: str = "a", fingerprint: str = "f" * 64):
        half = np.asarray(maps, dtype=np.float16)
        num_images, height, width, dim = half.shape
        names = tuple(f"{name}/{image}" for image in range(num_images))
        return FeatureSet(
            names=names,
            digests=tuple(hashlib.sha256(image.encode()).hexdigest() for image in names),
            maps=(half,),
            rows=np.stack([np.zeros(num_images, np.int64), np.arange(num_images)], axis=1),
            pooled=half.reshape(num_images, height * width, dim).mean(axis=1, dtype=np.float32),
            fingerprint=fingerprint,
        )

    return make


@pytest.fixture(scope="session")
def random_features(make_features, seeded) -> Callable[..., FeatureSet]:
    """Features in memory, standard normal."""

    def make(seed: int, num_images: int = 6, height: int = 4, width: int = 3, dim: int = 5, **more):
        shape = (num_images, height, width, dim)
        return make_features(torch.randn(shape, generator=seeded(seed)), **more)

    return make


@pytest.fixture(scope="session")
def separable_maps(seeded) -> Callable[..., tuple[Tensor, Tensor]]:
    """Feature maps of two noisy materials, and which material each position shows."""

    def make(seed: int, num_images: int = 6, side: int = 6, dim: int = 8):
        generator = seeded(seed)
        material = torch.zeros(num_images, side, side, dtype=torch.int64)
        for image in range(num_images):
            edge = int(torch.randint(1, side, (), generator=generator))
            material[image, :, edge:] = 1
        noise = 0.2 * torch.randn(num_images, side, side, dim, generator=generator)
        return torch.eye(dim)[material] + noise, material

    return make


@pytest.fixture(scope="session")
def make_state() -> Callable[..., GlobalState]:
    """Global state of a head and centroids."""

    def make(head: HeadWeights, centroids: Tensor, round_number: int = 0, dim: int = 3):
        agreed = {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}
        plan = TrainingPlan(num_steps=1, mean_feature=torch.zeros(dim), agreed=agreed)
        return GlobalState(round_number, Model(head, centroids), plan)

    return make


@pytest.fixture(scope="session")
def make_update() -> Callable[..., ClientUpdate]:
    """Update of one client with a head of a single weight."""

    def make(client_id: str, num_images: int, weight: list[float], centroids: list[list[float]]):
        parts = {"head.w": torch.tensor(weight), "centroids": torch.tensor(centroids)}
        return ClientUpdate(client_id, num_images, loss=0.0, parts=parts)

    return make


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Model, Model], bool]:
    """Whether two models agree to the last bit."""

    def same(left: Model, right: Model) -> bool:
        return (
            left.head.keys() == right.head.keys()
            and all(torch.equal(left.head[name], right.head[name]) for name in left.head)
            and torch.equal(left.centroids, right.centroids)
            and same_map(left.region_of, right.region_of)
        )

    def same_map(left: Tensor | None, right: Tensor | None) -> bool:
        if left is None or right is None:
            return left is right
        return torch.equal(left, right)

    return same


@pytest.fixture
def all_zoomable(monkeypatch):
    """Let the judge use zoomed views with the filter bank, too, which needs no weights."""
    monkeypatch.setattr("fusseg.features.backbones.FIXED_SCALE", set())
