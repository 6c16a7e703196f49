import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusseg.data.geometry import source_box
from fusseg.data.images import fit_image
from fusseg.data.masks import fit_mask

sides = st.integers(1, 60)
shapes = st.tuples(sides, sides)
fits = st.sampled_from(["crop", "stretch"])


@given(shapes, shapes, fits)
def test_the_box_lies_in_the_image_and_has_the_new_aspect_ratio(shape, size, fit):
    left, top, right, bottom = source_box(shape, size, fit)
    assert 0 <= left < right <= shape[1]
    assert 0 <= top < bottom <= shape[0]
    if fit == "crop":
        np.testing.assert_allclose((right - left) * size[0], (bottom - top) * size[1], rtol=1e-9)
        assert right - left == shape[1] or bottom - top == shape[0]


@given(shapes, shapes, fits, st.integers(0, 2**31))
def test_masks_stay_aligned_with_their_images(shape, size, fit, seed):
    mask = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    image = np.repeat(mask[:, :, None], 3, axis=2)
    fitted = fit_mask(mask, size, fit)
    assert fitted.shape == size
    np.testing.assert_array_equal(fit_image(image, size, fit, "nearest")[:, :, 1], fitted)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), fits)
def test_enlarging_by_a_whole_factor_repeats_labels(height, width, factor, fit):
    mask = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    expected = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(fit_mask(mask, expected.shape, fit), expected)
