"""Count the matrix products of each stage, and run them alone as its floor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.speed.timing import time_alternately
from fusseg.segmentation.objective import LocalTraining

REFERENCE_SHAPE = (1936, 768, 768)
"""Rows, inner length and columns of the reference product: the hidden layer of a step."""


@dataclass(frozen=True)
class Product:
    """Matrix products of one shape: `batch` times (rows x inner) @ (inner x columns)."""

    rows: int
    inner: int
    columns: int
    batch: int = 1
    times: int = 1

    @property
    def gflop(self) -> float:
        """Multiplications and additions, in 10^9."""
        return 2e-9 * self.times * self.batch * self.rows * self.inner * self.columns


def count_gflop(products: Sequence[Product]) -> float:
    """Sum the arithmetic of products."""
    return sum(product.gflop for product in products)


def stego_products(
    dim: int, code_dim: int, num_clusters: int, local: LocalTraining
) -> tuple[Product, ...]:
    """List the products of one step of STEGO's objective, forward and backward.

    Pairs with self, neighbor and supports: cosines of features forward; cosines of codes forward,
    and backward to both sides.

    Args:
        dim: Channels of the features.
        code_dim: Channels of the codes.
        num_clusters: Number of centroids.
        local: Batch size, positions and supports.
    """
    positions = local.settings.positions
    count = 2 * local.batch_size * positions
    pairs = 2 + local.settings.random_supports
    return (
        *_trained_head(count, dim, code_dim),
        Product(positions, dim, positions, batch=local.batch_size, times=pairs),
        Product(positions, code_dim, positions, batch=local.batch_size, times=pairs),
        Product(positions, positions, code_dim, batch=local.batch_size, times=2 * pairs),
        *_trained_centroids(count, code_dim, num_clusters),
    )


def contrastive_products(
    dim: int, code_dim: int, num_clusters: int, local: LocalTraining
) -> tuple[Product, ...]:
    """List the products of one step of the contrastive objective; arguments as above.

    All pairs of positions: features forward; codes forward, and backward to both sides.
    """
    count = local.batch_size * local.settings.positions
    return (
        *_trained_head(count, dim, code_dim),
        Product(count, dim, count),
        Product(count, code_dim, count),
        Product(count, count, code_dim, times=2),
        *_trained_centroids(count, code_dim, num_clusters),
    )


def smooseg_products(
    dim: int, code_dim: int, num_clusters: int, local: LocalTraining
) -> tuple[Product, ...]:
    """List the products of one step of the smoothness objective; arguments as above.

    Pairs within and across images: features forward; assignments forward, and backward to both
    sides. Assignments to the teacher: forward, and backward to the codes.
    """
    positions, batch = local.settings.positions, local.batch_size
    count = batch * positions
    return (
        *_trained_head(count, dim, code_dim),
        Product(positions, dim, positions, batch=batch, times=2),
        Product(count, code_dim, num_clusters),
        Product(count, num_clusters, code_dim),
        Product(positions, num_clusters, positions, batch=batch, times=2),
        Product(positions, positions, num_clusters, batch=batch, times=4),
        *_trained_centroids(count, code_dim, num_clusters),
    )


def primaps_products(
    dim: int, code_dim: int, num_clusters: int, local: LocalTraining
) -> tuple[Product, ...]:
    """List the products of one step of the mask objective; arguments as above.

    The head is not trained, so only its forward products; the teacher's cosines, and the votes of
    the positions of each mask.
    """
    positions, batch = local.settings.positions, local.batch_size
    count = batch * positions
    return (
        *head_products(count, dim, code_dim),
        Product(count, code_dim, num_clusters),
        Product(positions, positions, num_clusters, batch=batch),
        *_trained_centroids(count, code_dim, num_clusters),
    )


STEP_PRODUCTS: dict[str, Callable[[int, int, int, LocalTraining], tuple[Product, ...]]] = {
    "stego": stego_products,
    "contrastive": contrastive_products,
    "smooseg": smooseg_products,
    "primaps": primaps_products,
}
"""Products of one local step, by the name of the objective."""


def _trained_head(count: int, dim: int, code_dim: int) -> tuple[Product, ...]:
    """List the products of a head in training.

    Three layers forward, three gradients of weights, and one gradient of an input, the hidden
    layer's: features need no gradient.
    """
    return (
        Product(count, dim, dim),
        Product(dim, count, dim),
        Product(count, dim, code_dim, times=2),
        Product(code_dim, count, dim, times=2),
        Product(count, code_dim, dim),
    )


def _trained_centroids(count: int, code_dim: int, num_clusters: int) -> tuple[Product, ...]:
    """List the products of centroids: once forward and once backward, since codes are detached."""
    return Product(count, code_dim, num_clusters), Product(num_clusters, count, code_dim)


def head_products(positions: int, dim: int, code_dim: int) -> tuple[Product, ...]:
    """List the products of the head for a number of positions."""
    return (
        Product(positions, dim, dim),
        Product(positions, dim, code_dim, times=2),
    )


def prepare_products(
    products: Sequence[Product], dtype: torch.dtype, device: torch.device, calls: int = 1
) -> Callable[[], None]:
    """Make random operands and return a function that only multiplies.

    Args:
        products: What is multiplied.
        dtype: Precision.
        device: Where.
        calls: How often all of them are multiplied per call of the function.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    operands = [
        (
            draw(product.batch, product.rows, product.inner),
            draw(product.batch, product.inner, product.columns),
            torch.empty(product.batch, product.rows, product.columns, dtype=dtype, device=device),
        )
        if product.batch > 1
        else (
            draw(product.rows, product.inner),
            draw(product.inner, product.columns),
            torch.empty(product.rows, product.columns, dtype=dtype, device=device),
        )
        for product in products
    ]

    def multiply() -> None:
        for _ in range(calls):
            for product, (left, right, out) in zip(products, operands, strict=True):
                for _ in range(product.times):
                    # Into the same memory: a floor does not wait for fresh pages.
                    torch.matmul(left, right, out=out)

    return multiply


def product_rate(dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Measure the rate of the reference product in this process, in 10^9 operations a second."""
    products = [Product(*REFERENCE_SHAPE)]
    [timing] = time_alternately(
        [prepare_products(products, dtype, device, calls=5)], repeats, device
    )
    return 5 * count_gflop(products) / timing.seconds
