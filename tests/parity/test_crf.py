"""Lattice filter and dense CRF against N x N kernels in float64; the mean field against a loop."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax

from fusseg.evaluation.crf import (
    BILATERAL_STD,
    BILATERAL_WEIGHT,
    COLOR_STD,
    SHARPNESS,
    SMOOTH_WEIGHT,
    bilateral_kernel,
    mean_field,
    normalize_kernel,
    refine,
    smooth_kernel,
)
from fusseg.evaluation.permutohedral import build_lattice, gaussian_filter


def exact_kernel(positions):
    """Gaussian of all pairs of positions, in units of its standard deviation."""
    squared = ((positions[:, None] - positions[None]) ** 2).sum(axis=2)
    return np.exp(-squared / 2)


def normalized(kernel):
    root = 1 / np.sqrt(kernel.sum(axis=1))
    return root[:, None] * kernel * root[None, :]


def as_filter(kernel):
    return lambda values: (kernel @ values.astype(np.float64)).astype(np.float32)


def pixel_positions(image):
    height, width, _ = image.shape
    place = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2).astype(float)
    colors = image.reshape(-1, 3).astype(float)
    return place, np.concatenate([place / BILATERAL_STD, colors / COLOR_STD], axis=1)


def draw_scene(seed, size=40):
    """Three noisy materials with a shading, and coarse cosines that err here and there."""
    generator = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size]
    edge = generator.integers(size // 4, size // 2, 2)
    material = (column + row // 3 > edge[0] + size // 4).astype(int)
    material[row > size - edge[1]] = 2
    colors = (
        generator.integers(40, 200, (3, 3))[material] + (row[:, :, None] + column[:, :, None]) / 3
    )
    image = (colors + generator.normal(0, 4, colors.shape)).clip(0, 255).astype(np.uint8)
    cell = np.kron(generator.normal(0, 0.25, (3, size // 8, size // 8)), np.ones((8, 8)))
    cosines = 0.3 * np.eye(3)[:, material] + cell
    return image, cosines.clip(-1, 1).astype(np.float32), material


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(2))
def test_the_normalized_lattice_filter_is_close_to_the_gaussian_of_all_pairs(dims, seed):
    generator = np.random.default_rng(seed)
    positions = generator.normal(size=(1500, dims))
    values = generator.random((1500, 2)).astype(np.float32)
    lattice = build_lattice(positions)
    kernel = exact_kernel(positions)
    found = gaussian_filter(lattice, values) / gaussian_filter(lattice, np.ones_like(values))
    expected = kernel @ values / kernel.sum(axis=1, keepdims=True)
    blur = np.abs(values.mean(axis=0) - expected).mean()
    assert np.abs(found - expected).mean() < 0.02 * expected.mean()
    assert np.abs(found - expected).mean() < 0.5 * blur  # closer than filtering to the mean


def test_the_lattice_spreads_a_value_as_wide_as_the_gaussian_on_average_over_its_place():
    grid = np.stack(np.mgrid[-16:17, -16:17], axis=-1).reshape(-1, 2) / 4
    middle = (np.abs(grid).sum(axis=1) == 0).astype(np.float32)[:, None]
    covariances = []
    for offset in np.random.default_rng(0).uniform(-3, 3, (60, 2)):
        response = gaussian_filter(build_lattice(grid + offset), middle)[:, 0].astype(float)
        response /= response.sum()
        covariances.append((response * grid.T) @ grid)
    np.testing.assert_allclose(np.mean(covariances, axis=0), np.eye(2), atol=0.05)


def test_the_smooth_kernel_equals_the_gaussian_of_all_pairs():
    height, width = 13, 9
    place = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2).astype(float)
    values = np.random.default_rng(0).random((height * width, 3)).astype(np.float32)
    found = normalize_kernel(smooth_kernel(height, width), height * width)(values)
    np.testing.assert_allclose(found, normalized(exact_kernel(place)) @ values, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_bilateral_filter_is_close_to_that_of_all_pairs(seed):
    image, cosines, _ = draw_scene(seed)
    values = np.exp(cosines).reshape(3, -1).T.copy()
    found = normalize_kernel(bilateral_kernel(image), image.shape[0] * image.shape[1])(values)
    expected = normalized(exact_kernel(pixel_positions(image)[1])) @ values
    assert np.abs(found - expected).mean() < 0.04 * expected.mean()


@pytest.mark.parametrize("seed", range(4))
def test_regions_equal_those_of_exact_kernels_nearly_everywhere(seed):
    image, cosines, material = draw_scene(seed)
    place, joint = pixel_positions(image)
    kernels = [
        (SMOOTH_WEIGHT, as_filter(normalized(exact_kernel(place)))),
        (BILATERAL_WEIGHT, as_filter(normalized(exact_kernel(joint)))),
    ]
    log_unary = log_softmax(SHARPNESS * cosines.reshape(3, -1).T, axis=1)
    expected = mean_field(log_unary, kernels).argmax(axis=1).reshape(material.shape)
    found = refine(image, cosines)
    assert (found == expected).mean() >= 0.98
    before = cosines.argmax(axis=0)
    assert (before != expected).mean() > 0.1  # the field had something to do
    assert (found == material).mean() > (before == material).mean() + 0.05


def test_the_mean_field_equals_the_loop_over_pixels_and_labels():
    generator = np.random.default_rng(1)
    pixels, labels, iterations = 12, 3, 4
    kernels = [(weight, generator.random((pixels, pixels))) for weight in (0.7, 1.9)]
    log_unary = log_softmax(generator.normal(size=(pixels, labels)), axis=1).astype(np.float32)
    # Algorithm 1 of the paper: Potts potentials charge what the other labels send.
    current = np.exp(log_unary.astype(float))
    for _ in range(iterations):
        updated = np.zeros_like(current)
        for i in range(pixels):
            for label in range(labels):
                energy = -float(log_unary[i, label])
                for weight, kernel in kernels:
                    for j in range(pixels):
                        for other in range(labels):
                            if other != label:
                                energy += weight * kernel[i, j] * current[j, other]
                updated[i, label] = math.exp(-energy)
        current = updated / updated.sum(axis=1, keepdims=True)
    filters = [(weight, as_filter(kernel)) for weight, kernel in kernels]
    found = mean_field(log_unary, filters, iterations)
    np.testing.assert_allclose(found, current, atol=1e-5)
