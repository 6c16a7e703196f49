import base64
import io

import numpy as np
from PIL import Image

from fusseg.report.embedding import MAX_WIDTH, photo_uri, regions_uri


def _decode(uri, media_type):
    prefix = f"data:{media_type};base64,"
    assert uri.startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix))))


def test_a_photo_becomes_a_jpeg_of_its_size():
    image = np.full((30, 40, 3), 90, np.uint8)
    decoded = np.asarray(_decode(photo_uri(image), "image/jpeg"))
    assert decoded.shape == (30, 40, 3)
    assert np.abs(decoded.astype(int) - 90).max() <= 2


def test_wide_images_are_scaled_down_and_keep_their_shape():
    image = np.zeros((500, 1000, 3), np.uint8)
    assert _decode(photo_uri(image), "image/jpeg").size == (MAX_WIDTH, 240)
    assert _decode(regions_uri(image), "image/png").size == (MAX_WIDTH, 240)


def test_a_very_flat_image_keeps_at_least_one_row():
    image = np.zeros((1, 5000, 3), np.uint8)
    assert _decode(photo_uri(image), "image/jpeg").size == (MAX_WIDTH, 1)


def test_colors_of_regions_survive_to_the_bit():
    colors = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    image = colors[np.arange(1024).reshape(32, 32) % 256]
    decoded = _decode(regions_uri(image), "image/png").convert("RGB")
    np.testing.assert_array_equal(np.asarray(decoded), image)


def test_regions_with_more_colors_than_a_palette_holds_are_embedded_as_a_photo():
    image = np.zeros((1, 300, 3), np.uint8)
    image[0, :, 0] = np.arange(300) % 256
    image[0, :, 1] = np.arange(300) // 256
    assert _decode(regions_uri(image), "image/jpeg").size == (300, 1)
