"""The class of each position, from masks, scribbles and clicks."""

import numpy as np
import pytest

from fusseg.data.label_grid import NO_LABEL, Grid, LabeledPixels, label_positions, pixels_of_mask
from fusseg.evaluation.probe import majority_labels

WHOLE = Grid((2, 2), (4, 4), "crop")


def test_most_labeled_pixels_decide_and_the_lowest_class_in_a_tie():
    mask = np.array([[1, 1, 2, 0], [0, 255, 0, 2], [255, 255, 3, 3], [255, 255, 3, 0]], np.uint8)
    found = label_positions(pixels_of_mask(mask, 255), WHOLE, num_classes=4)
    # One 0 and two 1; two 0 and two 2; nothing; three 3.
    assert found.tolist() == [[1, 0], [NO_LABEL, 3]]


def test_a_single_click_labels_its_position_however_far_the_image_is_shrunk():
    click = LabeledPixels((400, 400), np.array([399]), np.array([250]), np.array([2]))
    found = label_positions(click, WHOLE, num_classes=3)
    assert found.tolist() == [[NO_LABEL, NO_LABEL], [NO_LABEL, 2]]


def test_pixels_that_the_crop_cuts_off_label_nothing():
    pixels = LabeledPixels((4, 8), np.array([0, 0, 0]), np.array([0, 2, 7]), np.array([1, 0, 1]))
    assert label_positions(pixels, WHOLE, 2).tolist() == [[0, NO_LABEL], [NO_LABEL, NO_LABEL]]
    stretched = label_positions(pixels, Grid((2, 2), (4, 4), "stretch"), 2)
    assert stretched.tolist() == [[0, 1], [NO_LABEL, NO_LABEL]]


def test_a_pixel_larger_than_a_position_labels_all_positions_in_it():
    pixels = LabeledPixels((2, 2), np.array([0]), np.array([1]), np.array([1]))
    found = label_positions(pixels, Grid((4, 6), (32, 48), "stretch"), 2)
    expected = np.full((4, 6), NO_LABEL)
    expected[:2, 3:] = 1
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_full_masks_of_the_size_of_training_are_labeled_as_for_the_probe(seed):
    mask = np.random.default_rng(seed).integers(0, 5, (24, 32)).astype(np.uint8)
    found = label_positions(pixels_of_mask(mask, None), Grid((3, 4), (24, 32), "crop"), 5)
    assert found.tolist() == majority_labels(mask, 8).tolist()
