"""Generated scenes as files."""

import numpy as np
import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.images import load_image
from fusseg.data.layouts.sites import open_sites
from fusseg.data.masks import load_mask
from fusseg.data.synthetic.scene_folder import write_scenes
from fusseg.data.synthetic.scenes import SCENES, Scene, draw_scene


def test_the_files_hold_the_scenes_to_the_last_bit(tmp_path):
    write_scenes("streets", tmp_path / "s", images_per_site=2, seed=5)
    dataset = open_sites(DataConfig(root=str(tmp_path / "s")))
    assert dataset.sites == ("avenue", "dusk", "oldtown", "suburb")
    assert dataset.classes.names == SCENES["streets"].class_names
    assert dataset.classes.colors == SCENES["streets"].colors
    assert [item.split for item in dataset.items] == [""] * 8
    image, mask = draw_scene(Scene("streets", "dusk", 1, 5))
    (item,) = (item for item in dataset.items if item.site == "dusk" and item.stem == "00001")
    assert np.array_equal(load_image(item), image)
    assert np.array_equal(load_mask(item, dataset.classes), mask)


def test_the_held_out_site_is_split_test_and_the_others_train(tmp_path):
    write_scenes("pipes", tmp_path / "s", images_per_site=2, held_out="hall")
    dataset = open_sites(DataConfig(root=str(tmp_path / "s")))
    assert {(item.site, item.split) for item in dataset.items} == {
        ("hall", "test"),
        ("tank", "train"),
        ("tunnel", "train"),
        ("yard", "train"),
    }


@pytest.mark.parametrize(
    ("kind", "images", "held_out", "message"),
    [
        ("pipe", 2, None, "unknown scenes 'pipe'; did you mean 'pipes'?"),
        ("pipes", 1, None, "images per site must be 2 to 99999, got 1"),
        ("pipes", 2, "hal", "unknown site 'hal'; did you mean 'hall'?"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, kind, images, held_out, message):
    with pytest.raises(ConfigError) as caught:
        write_scenes(kind, tmp_path / "s", images, held_out=held_out)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="already exists; choose a new folder, or remove it"):
        write_scenes("pipes", tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "s").mkdir()
    write_scenes("pipes", tmp_path / "s", 2)
    with Image.open(tmp_path / "s" / "yard" / "images" / "00001.png") as image:
        assert image.size == (320, 240)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
