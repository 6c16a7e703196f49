import numpy as np
import pytest
from PIL import Image

from fusseg.data.geometry import source_box
from fusseg.data.images import fit_image
from fusseg.data.masks import fit_mask


@pytest.mark.parametrize(
    ("shape", "size", "box"),
    [
        ((100, 200), (50, 50), (50.0, 0.0, 150.0, 100.0)),
        ((200, 100), (50, 50), (0.0, 50.0, 100.0, 150.0)),
        ((360, 480), (360, 480), (0.0, 0.0, 480.0, 360.0)),
        ((10, 10), (20, 40), (0.0, 2.5, 10.0, 7.5)),
    ],
)
def test_crop_keeps_the_largest_centered_part(shape, size, box):
    assert source_box(shape, size, "crop") == box


def test_stretch_keeps_everything():
    assert source_box((100, 200), (50, 50), "stretch") == (0.0, 0.0, 200.0, 100.0)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "bicubic", "lanczos"])
def test_an_image_of_the_right_size_is_left_as_it_is(fit, interpolation):
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit_image(image, (37, 53), fit, interpolation), image)
    np.testing.assert_array_equal(fit_mask(image[:, :, 0], (37, 53), fit), image[:, :, 0])


def test_box_halves_an_image_by_averaging_four_pixels():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2] = [[[0], [40]], [[80], [120]]]
    image[:, 2:] = 200
    halved = fit_image(image, (1, 2), "stretch", "box")
    np.testing.assert_array_equal(halved[0, :, 0], [60, 200])


def test_crop_equals_scaling_the_shorter_side_and_cutting():
    image = np.random.default_rng(0).integers(0, 256, (80, 200, 3), dtype=np.uint8)
    scaled = Image.fromarray(image).resize((100, 40), Image.Resampling.BILINEAR)
    expected = np.array(scaled.crop((30, 0, 70, 40)))
    fitted = fit_image(image, (40, 40), "crop", "bilinear")
    np.testing.assert_array_equal(fitted, expected)


def test_crop_of_a_mask_takes_the_middle():
    mask = np.arange(8, dtype=np.uint8)[None, :].repeat(4, axis=0)
    np.testing.assert_array_equal(fit_mask(mask, (2, 2), "crop")[0], [3, 5])
