"""Folders of masks are known by their names."""

import pytest

from fusseg.data.mask_names import is_images_folder, is_masks_folder


@pytest.mark.parametrize(
    "name",
    [
        *("masks", "Labels", "annotations", "SegmentationClass", "SegmentationObject", "gtFine"),
        *("ground_truth", "GroundTruth", "trainannot", "train_masks", "val-labels", "my gt", "gt"),
    ],
)
def test_names_of_folders_of_masks(name):
    assert is_masks_folder(name)
    assert not is_images_folder(name)


@pytest.mark.parametrize(
    "name", ["images", "JPEGImages", "train", "wright", "yard", "labelled", "masking tape"]
)
def test_other_names(name):
    assert not is_masks_folder(name)
