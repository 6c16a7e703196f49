"""Dense conditional random field (CRF): make regions follow the edges of the image.

Source: Kraehenbuehl & Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials, NeurIPS 2011; weights as in STEGO (arXiv 2203.08414).
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from scipy.ndimage import gaussian_filter1d
from scipy.special import log_softmax, softmax

from fusseg.evaluation.permutohedral import build_lattice, gaussian_filter

SHARPNESS = 2.0
"""The unary potential is -log(softmax(SHARPNESS * cosine))."""
ITERATIONS = 10
SMOOTH_WEIGHT, SMOOTH_STD = 3.0, 1.0
"""Weight of the kernel over positions, and its standard deviation in pixels."""
BILATERAL_WEIGHT, BILATERAL_STD, COLOR_STD = 4.0, 67.0, 3.0
"""Weight of the kernel over positions and colors; standard deviations in pixels and in RGB."""

Marginals = Float32[np.ndarray, "pixels clusters"]
Kernel = Callable[[Float32[np.ndarray, "pixels channels"]], Float32[np.ndarray, "pixels channels"]]
"""Weighted sum over all pixels, for each pixel and channel."""


def refine(
    image: UInt8[np.ndarray, "height width 3"],
    cosines: Float32[np.ndarray, "clusters height width"],
) -> UInt8[np.ndarray, "height width"]:
    """Assign each pixel to its most likely region under the CRF.

    Args:
        image: RGB image, as the backbone saw it.
        cosines: Cosine of each pixel's code with each centroid.
    """
    clusters, height, width = cosines.shape
    unary = log_softmax(SHARPNESS * cosines.reshape(clusters, -1).T, axis=1)
    kernels = (
        (SMOOTH_WEIGHT, normalize_kernel(smooth_kernel(height, width), height * width)),
        (BILATERAL_WEIGHT, normalize_kernel(bilateral_kernel(image), height * width)),
    )
    marginals = mean_field(unary, kernels)
    return np.asarray(marginals.argmax(axis=1).reshape(height, width), np.uint8)


def mean_field(
    log_unary: Float32[np.ndarray, "pixels clusters"],
    kernels: Sequence[tuple[float, Kernel]],
    iterations: int = ITERATIONS,
) -> Marginals:
    """Approximate each pixel's marginals under Potts potentials (algorithm 1 of the paper).

    Args:
        log_unary: Logarithm of each pixel's own probabilities.
        kernels: Weight and kernel of each pairwise term. A kernel includes the pixel itself, which
            changes only its confidence, as in the authors' implementation.
        iterations: Number of parallel updates of all pixels.
    """
    marginals: Marginals = softmax(log_unary, axis=1)
    for _ in range(iterations):
        # Potts: pixels that agree with a region reward it; terms equal for all regions cancel.
        messages = [np.float32(weight) * kernel(marginals) for weight, kernel in kernels]
        marginals = softmax(log_unary + sum(messages), axis=1)
    return marginals


def normalize_kernel(kernel: Kernel, num_pixels: int) -> Kernel:
    """Divide a kernel by the square roots of its row and column sums; it stays symmetric."""
    total = kernel(np.ones((num_pixels, 1), np.float32))
    root = 1 / np.sqrt(total + np.float32(1e-20))
    return lambda values: root * kernel(root * values)


def smooth_kernel(height: int, width: int, std: float = SMOOTH_STD) -> Kernel:
    """Gaussian of the distance in pixels, cut off at five standard deviations."""

    def kernel(
        values: Float32[np.ndarray, "pixels channels"],
    ) -> Float32[np.ndarray, "pixels channels"]:
        grid = values.reshape(height, width, -1)
        for axis in (0, 1):
            grid = gaussian_filter1d(grid, std, axis=axis, mode="constant", truncate=5.0)
        return grid.reshape(values.shape)

    return kernel


def bilateral_kernel(
    image: UInt8[np.ndarray, "height width 3"],
    std: float = BILATERAL_STD,
    color_std: float = COLOR_STD,
) -> Kernel:
    """Gaussian of the distance in pixels and in color, on a permutohedral lattice."""
    height, width, _ = image.shape
    place = np.moveaxis(np.indices((height, width)), 0, -1) / std
    positions = np.concatenate([place, image / color_std], axis=-1).reshape(height * width, -1)
    lattice = build_lattice(positions)
    return lambda values: gaussian_filter(lattice, values)
