from dataclasses import replace

import numpy as np
import pytest
import torch

from fusseg.core.errors import DataError
from fusseg.features.principal_masks import (
    NO_MASK,
    MaskSettings,
    open_masks,
    principal_masks,
    read_masks,
)

SETTINGS = MaskSettings(threshold=0.4, coverage=0.95, most=9)


def test_three_directions_are_three_masks_the_widest_first():
    # Largest along the first axis, then along the second; lengths within a mask do not matter.
    features = torch.tensor([[0.0, 0, 1], [9, 0, 0], [-9, 0, 1], [0, 4, 0], [7, 0, 0], [0, 5, 0]])
    found = principal_masks(features, replace(SETTINGS, coverage=1.0)).tolist()
    assert found == [3, 0, 1, 2, 0, 2]


def test_the_rest_beyond_the_coverage_is_in_no_mask():
    features = torch.eye(2)[torch.tensor([0] * 7 + [1] * 3)] * torch.tensor([5.0, 1.0])
    assert (
        principal_masks(features, replace(SETTINGS, coverage=0.7)).tolist() == [0] * 7 + [255] * 3
    )
    assert principal_masks(features, replace(SETTINGS, coverage=0.71)).tolist() == [0] * 7 + [1] * 3


def test_there_are_at_most_as_many_masks_as_allowed():
    found = principal_masks(torch.eye(6), replace(SETTINGS, coverage=1.0, most=4)).tolist()
    assert sorted(found) == [0, 1, 2, 3, NO_MASK, NO_MASK]


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_image_of_one_color_is_one_mask(value):
    assert principal_masks(torch.full((5, 3), value), SETTINGS).tolist() == [0] * 5


def test_masks_are_computed_once_for_each_image(random_features, tmp_path):
    features, mean = random_features(0, num_images=3), torch.full((5,), 0.25)
    opened = open_masks(features, mean, SETTINGS, tmp_path)
    assert not (tmp_path / "masks").exists()
    found = read_masks(opened, 1)
    centered = features.feature_map(1).reshape(-1, 5) - mean
    assert found.tolist() == principal_masks(centered, SETTINGS).tolist()
    (file,) = opened.folder.iterdir()
    assert file.read_bytes() == bytes(found.tolist())
    # What is there is read: here another division of the image.
    file.write_bytes(bytes([7] * 12))
    assert read_masks(opened, 1).tolist() == [7] * 12
    read_masks(opened, 0)
    assert len(list(opened.folder.iterdir())) == 2


@pytest.mark.parametrize("damaged", [b"", bytes(11), bytes([9] * 12)])
def test_a_damaged_file_is_replaced(random_features, tmp_path, damaged):
    opened = open_masks(random_features(0), torch.zeros(5), SETTINGS, tmp_path)
    found = read_masks(opened, 0)
    (file,) = opened.folder.iterdir()
    file.write_bytes(damaged)
    assert read_masks(opened, 0).tolist() == found.tolist()
    assert file.read_bytes() == bytes(found.tolist())


def test_other_settings_backbones_means_and_pixels_have_other_files(random_features, tmp_path):
    features = random_features(0)
    other_size = replace(features, pooled=features.pooled + np.float32(0.5))
    variants = [
        (features, torch.zeros(5), SETTINGS),
        (features, torch.ones(5), SETTINGS),
        (features, torch.zeros(5), replace(SETTINGS, threshold=0.5)),
        (replace(features, fingerprint="e" * 64), torch.zeros(5), SETTINGS),
        (other_size, torch.zeros(5), SETTINGS),
    ]
    for one in variants:
        read_masks(open_masks(*one, tmp_path), 0)
    assert len(list((tmp_path / "masks").glob("*/*.u8"))) == len(variants)


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(random_features, tmp_path):
    (tmp_path / "masks").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write the masks .*--cache or FUSSEG_CACHE"):
        read_masks(open_masks(random_features(0), torch.zeros(5), SETTINGS, tmp_path), 0)
