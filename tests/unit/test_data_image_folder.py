import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.layouts import open_dataset


def test_a_plain_folder_is_one_site_of_its_name(tmp_path):
    folder = tmp_path / "harbor"
    folder.mkdir()
    for name in ("b.png", "a.jpg", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    dataset = open_dataset(DataConfig(layout="images", root=str(folder)))
    assert [(item.site, item.stem) for item in dataset.items] == [("harbor", "a"), ("harbor", "b")]
    assert dataset.classes is None


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="no image in"):
        open_dataset(DataConfig(layout="images", root=str(tmp_path)))
