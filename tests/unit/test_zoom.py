import numpy as np
import pytest

from fusseg.features.zoom import ZOOM, Window, central_window, zoom_in


@pytest.mark.parametrize(
    ("side", "first", "last"),
    # Of 3 positions 2, of 4 3, of 6 the inner 4, of 40 the inner 27; one position stays.
    [(1, 0, 1), (2, 0, 1), (3, 0, 2), (4, 0, 3), (6, 1, 5), (40, 6, 33)],
)
def test_the_window_is_two_thirds_of_each_side_in_the_center(side, first, last):
    window = central_window(side, 6)
    assert window == Window(slice(first, last), slice(1, 5))
    assert window.shape == (last - first, 4)
    assert central_window(6, side) == Window(window.columns, window.rows)


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "lanczos"])
def test_an_even_image_stays_even(interpolation):
    even = np.full((48, 72, 3), (10, 200, 77), np.uint8)
    assert np.array_equal(zoom_in(even, (6, 9), interpolation), even)


def test_the_window_fills_the_view_and_what_is_outside_does_not_matter():
    # A grid of 6 x 9 positions of 8 pixels: the window is rows 1 to 5 and columns 1 to 7.
    whole = image(48, 72)
    inside = whole[8:40, 8:56]
    found = zoom_in(whole, (6, 9), "nearest")
    assert found.shape == whole.shape
    assert set(map(tuple, found.reshape(-1, 3))) <= set(map(tuple, inside.reshape(-1, 3)))
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    assert all(tuple(found[place]) == tuple(inside[place]) for place in corners)
    other = image(48, 72, seed=1)
    other[8:40, 8:56] = inside
    assert np.array_equal(zoom_in(other, (6, 9), "nearest"), found)


def test_things_are_larger_by_the_zoom():
    whole = np.zeros((48, 48, 3), np.uint8)
    whole[16:32, 16:32] = 255
    white = (zoom_in(whole, (6, 6), "nearest")[..., 0] > 0).sum()
    assert white == (16 * ZOOM) ** 2
