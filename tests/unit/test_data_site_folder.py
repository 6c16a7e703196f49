import os

import pytest

from fusseg.core.errors import DataError
from fusseg.data.items import Classes, Item
from fusseg.data.layouts.site_folder import open_site


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def refused(folder, name="a"):
    with pytest.raises(DataError) as caught:
        open_site(folder, name)
    return str(caught.value)


def test_a_sites_own_folder_is_listed_under_its_name_in_the_federation(tmp_path):
    touch(tmp_path, "images/2.PNG", "images/1.jpg", "images/x.y.tif", "masks/1.png", "masks/9.png")
    (tmp_path / "splits.csv").write_text("stem,site,split\n1,north,train\n2,south,train\n")
    (tmp_path / "classes.toml").write_text('names = ["ground", "pipe"]')
    dataset = open_site(tmp_path, "north")
    images = tmp_path / "images"
    assert dataset.items == (
        Item("north", "1", "train", images / "1.jpg", tmp_path / "masks" / "1.png"),
        Item("north", "2", "", images / "2.PNG"),
        Item("north", "x.y", "", images / "x.y.tif"),
    )
    assert dataset.sites == ("north",)
    assert dataset.classes == Classes(("ground", "pipe"))


def test_neither_masks_nor_tables_are_needed(tmp_path):
    touch(tmp_path, "images/1.jpg")
    dataset = open_site(tmp_path, "a")
    assert dataset.items == (Item("a", "1", "", tmp_path / "images" / "1.jpg"),)
    assert dataset.classes is None


def test_in_a_folder_of_sites_only_ones_own_is_listed(tmp_path):
    touch(tmp_path, "a/images/1.jpg", "b/images/1.jpg", "b/images/2.jpg", "b/masks/2.png")
    (tmp_path / "splits.csv").write_text("stem,site,split\n1,a,val\n1,b,train\n")
    (tmp_path / "classes.toml").write_text('names = ["ground"]')
    dataset = open_site(tmp_path, "b")
    images = tmp_path / "b" / "images"
    assert dataset.items == (
        Item("b", "1", "train", images / "1.jpg"),
        Item("b", "2", "", images / "2.jpg", tmp_path / "b" / "masks" / "2.png"),
    )
    assert dataset.classes == Classes(("ground",))


def test_a_folder_with_images_is_one_site_even_beside_folders_of_sites(tmp_path):
    touch(tmp_path, "images/own.jpg", "a/images/other.jpg")
    assert [item.stem for item in open_site(tmp_path, "a").items] == ["own"]


@pytest.mark.parametrize("made", [(), ("b/images/1.jpg",), ("1.jpg",), ("images",)])
def test_a_folder_without_images_is_no_site(tmp_path, made):
    touch(tmp_path, *made)
    assert refused(tmp_path) == (
        f"{tmp_path} is not a site: it has neither a folder 'images' nor 'a/images'; give the "
        "folder that contains 'images'"
    )
    assert refused(tmp_path / "none").startswith(f"{tmp_path / 'none'} is not a site: ")


def test_no_image_is_an_error(tmp_path):
    touch(tmp_path, "images/notes.txt", "images/._1.jpg")
    assert refused(tmp_path) == (
        f"no image in {tmp_path / 'images'}: expected jpg, png, tif, bmp or webp"
    )


def test_two_files_of_one_stem_are_refused(tmp_path):
    touch(tmp_path, "images/1.jpg", "images/1.png")
    assert refused(tmp_path) == (
        f"two files share the stem '1', 1.jpg and 1.png; rename one: {tmp_path / 'images'}"
    )


def test_malformed_tables_are_refused(tmp_path):
    touch(tmp_path, "images/1.jpg")
    (tmp_path / "classes.toml").write_text("names = []")
    assert refused(tmp_path).startswith("names must be a list of at least one class name, got []")
    (tmp_path / "splits.csv").write_text("stem\n1\n")
    assert "site" in refused(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "images/1.jpg")

    def refuse(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))

    # As root nothing is forbidden.
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    assert refused(tmp_path) == (
        f"the data cannot be read (Permission denied): {tmp_path / 'images'}"
    )
