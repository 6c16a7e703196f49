import numpy as np
import pytest
import torch

from fusseg.prediction.tiling import Tiling, blending_weights, code_bands, place_tiles

STRIDE = 2


def mean_colors(tiles):
    """Codes of one channel: the mean of each cell."""
    stacked = torch.from_numpy(np.stack(tiles)).float()
    images, height, width, _ = stacked.shape
    cells = stacked.reshape(images, height // STRIDE, STRIDE, width // STRIDE, STRIDE, 3)
    return cells.mean(dim=(2, 4, 5))[..., None]


def test_tiles_are_as_few_as_overlap_by_a_quarter_and_lie_evenly():
    assert place_tiles(8, 8) == (0,)
    assert place_tiles(9, 8) == (0, 1)
    assert place_tiles(14, 8) == (0, 6)
    assert place_tiles(20, 8) == (0, 6, 12)
    assert place_tiles(3, 1) == (0, 1, 2)


def test_weights_fall_towards_the_ends_of_a_tile_and_sum_to_one():
    weights = blending_weights((0, 6), 8)
    # Depths of a quarter and three quarters of the ramp of two: sin^2 of 22.5 and 67.5 degrees.
    near, far = np.sin(np.pi / 8) ** 2, np.sin(3 * np.pi / 8) ** 2
    assert weights[0].tolist() == pytest.approx([1] * 6 + [far, near])
    assert weights[1].tolist() == pytest.approx([near, far] + [1] * 6)


def test_one_tile_weighs_exactly_one():
    assert blending_weights((0,), 5).tolist() == [[1.0] * 5]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_blended_tiles_give_the_map_of_the_whole_where_codes_are_local(batch):
    image = np.random.default_rng(0).integers(0, 256, (22, 34, 3)).astype(np.uint8)
    whole = mean_colors([image])[0]
    bands = list(code_bands(image, Tiling((11, 17), (4, 5)), STRIDE, mean_colors, batch))
    assert len(bands) == len(place_tiles(11, 4)) > 1
    torch.testing.assert_close(torch.cat(bands), whole)


def test_the_codes_of_a_single_tile_are_taken_as_they_are():
    image = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    (band,) = code_bands(image, Tiling((3, 4), (3, 4)), STRIDE, mean_colors, 1)
    assert torch.equal(band, mean_colors([image])[0])
