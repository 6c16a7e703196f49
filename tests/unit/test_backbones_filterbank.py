import math

import pytest
import torch

from fusseg.core.errors import ConfigError
from fusseg.features.backbones.filterbank import load_filterbank

LOCAL = 36
"""Channels of one context: 3 colors, 3 contrasts, 5 scales x 6 orientations."""


@pytest.fixture(scope="module")
def backbone():
    return load_filterbank()


def gray(image):
    return image.round().to(torch.uint8)[None, :, :, None].expand(-1, -1, -1, 3)


def grating(wavelength, angle, side=128):
    """A sine wave that varies along `angle`."""
    steps = torch.arange(side)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    wave = torch.sin(2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle)))
    return gray(127 + 60 * wave)


def energies(backbone, image):
    """Energies at the center, scale by orientation."""
    features = backbone.extract(image)[0, 6:LOCAL]
    height, width = features.shape[1:]
    return features[:, height // 2, width // 2].reshape(5, 6)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


def test_one_position_per_cell_of_8_pixels(backbone):
    features = backbone.extract(noise(2, 40, 64))
    assert features.shape == (2, backbone.feature_dim, 5, 8)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_a_constant_image_has_the_same_features_everywhere(backbone):
    features = backbone.extract(torch.full((1, 48, 64, 3), 90, dtype=torch.uint8))
    assert torch.allclose(features, features[:, :, :1, :1].expand_as(features), atol=1e-5)


def test_the_first_channels_are_scaled_opponent_colors(backbone):
    image = torch.tensor([255, 0, 255], dtype=torch.uint8).expand(1, 16, 16, 3)
    dark = (1 / 255) ** (1 / 3)
    lightness, red_green = (2 + dark) / 3, 1 - dark
    yellow_blue = (1 + dark) / 2 - 1
    # weight of the position itself 0.5, weight of color 2
    expected = torch.tensor([lightness / 0.16, red_green / 0.083, yellow_blue / 0.10])
    assert torch.allclose(backbone.extract(image)[0, :3, 1, 1], expected, atol=1e-4)


@pytest.mark.parametrize("orientation", range(6))
def test_energy_is_largest_along_the_orientation_of_a_grating(backbone, orientation):
    image = grating(wavelength=4, angle=math.pi * orientation / 6)
    assert energies(backbone, image)[0].argmax() == orientation


@pytest.mark.parametrize("scale", range(5))
def test_energy_is_largest_at_the_scale_of_a_grating(backbone, scale):
    # standard deviations of the scales differ by up to 14 %; undone to compare between scales
    scales = torch.tensor([0.35, 0.35, 0.37, 0.40, 0.38])
    image = grating(wavelength=4 * 2**scale, angle=0.0, side=512)
    assert (energies(backbone, image)[:, 0] * scales).argmax() == scale


def test_features_of_an_image_do_not_depend_on_its_batch(backbone):
    images = noise(5, 48, 80)
    together = backbone.extract(images)
    assert torch.equal(together[3:4], backbone.extract(images[3:4]))


def test_features_move_with_the_image(backbone):
    image = torch.full((1, 256, 256, 3), 120, dtype=torch.uint8)
    image[:, 64:96, 64:96] = noise(1, 32, 32)
    moved = image.roll((16, 24), dims=(1, 2))
    local = backbone.extract(image)[:, :LOCAL, 4:24, 4:24]
    assert torch.allclose(local, backbone.extract(moved)[:, :LOCAL, 6:26, 7:27], atol=1e-4)


def test_context_is_the_gaussian_mean_of_the_positions_around(backbone):
    features = backbone.extract(noise(1, 40, 56))[0].double()
    local = features[:LOCAL] / 0.5
    for block, (sigma, weight) in enumerate([(1.5, 0.7), (4.0, 1.0), (10.0, 0.7)], start=1):
        context = features[block * LOCAL : (block + 1) * LOCAL]
        weights = torch.tensor(
            [
                [math.exp(-((y - 2) ** 2 + (x - 6) ** 2) / (2 * sigma**2)) for x in range(7)]
                for y in range(5)
            ],
            dtype=torch.float64,
        )
        expected = weight * (local * weights).sum(dim=(1, 2)) / weights.sum()
        assert torch.allclose(context[:, 2, 6], expected, atol=1e-4)


def test_the_same_fingerprint_every_time():
    assert load_filterbank().fingerprint == load_filterbank().fingerprint
    assert len(load_filterbank().fingerprint) == 64


def test_an_image_of_broken_cells_is_refused(backbone):
    with pytest.raises(ConfigError, match=r"multiples of 8, got \[20, 16\]"):
        backbone.extract(noise(1, 20, 16))


@pytest.mark.parametrize("size", [(48, 64), (224, 224)])
def test_features_are_the_same_on_any_number_of_threads(backbone, seeded, size):
    images = torch.randint(0, 256, (1, *size, 3), generator=seeded(0), dtype=torch.uint8)
    assert backbone.same_on_any_threads
    alone = backbone.extract(images)
    try:
        torch.set_num_threads(3)
        assert torch.equal(backbone.extract(images), alone)
    finally:
        torch.set_num_threads(1)
