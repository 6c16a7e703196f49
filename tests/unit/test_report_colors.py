import numpy as np
import pytest

from fusseg.core.colors import BORDER, UNASSIGNED, colorize, overlay, palette, spread_colors
from fusseg.core.errors import ConfigError


def test_small_palettes_are_okabe_and_itos():
    expected = [[230, 159, 0], [86, 180, 233], [0, 158, 115]]
    assert palette(3).tolist() == expected


def test_a_longer_palette_starts_with_the_shorter_one():
    np.testing.assert_array_equal(palette(27)[:11], palette(11))


@pytest.mark.parametrize(("num", "least"), [(11, 80), (27, 35), (150, 15)])
def test_colors_of_a_palette_are_distinct(num, least):
    colors = palette(num).astype(int)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=-1)
    assert distance[~np.eye(num, dtype=bool)].min() >= least


def test_a_palette_avoids_near_black_and_near_white():
    brightness = palette(60).astype(float).mean(axis=1)
    assert brightness.min() > 30
    assert brightness.max() <= 230


def test_an_empty_palette_has_no_color():
    assert palette(0).shape == (0, 3)


def test_given_colors_come_first_and_are_not_repeated():
    taken = np.array([[120, 30, 30], [255, 255, 255]], np.uint8)
    colors = spread_colors(taken, 12)
    np.testing.assert_array_equal(colors[:2], taken)
    assert len(np.unique(colors, axis=0)) == 12


def test_too_many_colors_are_refused():
    with pytest.raises(ConfigError) as caught:
        palette(100_000)
    assert str(caught.value) == (
        "a palette has at most 3824 colors here, got 100000; lower num_clusters"
    )


def test_colorize_paints_each_index_and_leaves_unknown_ones_gray():
    colors = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    regions = np.array([[0, 1], [255, -1]], np.int16)
    expected = [[[1, 2, 3], [4, 5, 6]], [list(UNASSIGNED), list(UNASSIGNED)]]
    assert colorize(regions, colors).tolist() == expected


def test_overlay_mixes_image_and_color():
    image = np.full((1, 2, 3), 100, np.uint8)
    regions = np.zeros((1, 2), np.uint8)
    colors = np.array([[200, 0, 100]], np.uint8)
    mixed = overlay(image, regions, colors, opacity=0.25)
    assert mixed.tolist() == [[[125, 75, 100], [125, 75, 100]]]


def test_overlay_draws_a_thin_line_where_regions_meet():
    image = np.zeros((2, 4, 3), np.uint8)
    regions = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.uint8)
    colors = np.array([[10, 10, 10], [20, 20, 20]], np.uint8)
    mixed = overlay(image, regions, colors, opacity=1.0)
    row = [[10, 10, 10], list(BORDER), [20, 20, 20], [20, 20, 20]]
    assert mixed.tolist() == [row, row]


def test_overlay_without_opacity_and_borders_is_the_image():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    regions = np.array([[0, 1, 0, 1], [1, 0, 1, 0]], np.uint8)
    np.testing.assert_array_equal(
        overlay(image, regions, palette(2), opacity=0.0, borders=False), image
    )


def test_an_opacity_out_of_range_is_refused():
    image = np.zeros((1, 1, 3), np.uint8)
    with pytest.raises(ConfigError) as caught:
        overlay(image, np.zeros((1, 1), np.uint8), palette(1), opacity=1.5)
    assert str(caught.value) == "opacity must lie in [0, 1], got 1.5"
