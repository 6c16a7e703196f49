import os
import sys
from pathlib import Path

import pytest

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.items import Classes, Item
from fusseg.data.layouts.sites import open_sites


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def refused(error=DataError, **settings):
    with pytest.raises(error) as caught:
        open_sites(DataConfig(**settings))
    return str(caught.value)


def test_sites_images_masks_splits_and_classes_are_found(tmp_path):
    touch(tmp_path, "b/images/2.PNG", "a/images/x.y.jpg", "a/images/1.jpeg", "a/masks/1.png")
    (tmp_path / "splits.csv").write_text("stem,site,split\n1,a,train\n9,a,val\n")
    (tmp_path / "classes.toml").write_text('names = ["ground", "pipe"]')
    dataset = open_sites(DataConfig(root=str(tmp_path)))
    images, masks = tmp_path / "a" / "images", tmp_path / "a" / "masks"
    assert dataset.items == (
        Item("a", "1", "train", images / "1.jpeg", masks / "1.png"),
        Item("a", "x.y", "", images / "x.y.jpg"),
        Item("b", "2", "", tmp_path / "b" / "images" / "2.PNG"),
    )
    assert dataset.sites == ("a", "b")
    assert dataset.classes == Classes(("ground", "pipe"))


def test_without_a_class_file_there_are_no_classes(tmp_path):
    touch(tmp_path, "a/images/1.jpg")
    assert open_sites(DataConfig(root=str(tmp_path))).classes is None


def test_every_suffix_counts_and_nothing_hidden(tmp_path):
    names = ["1.jpg", "2.JPEG", "3.png", "4.tif", "5.TIFF", "6.bmp", "7.webp"]
    touch(tmp_path, *(f"a/images/{name}" for name in names))
    touch(tmp_path, "a/images/._1.jpg", "a/images/.DS_Store", "a/images/readme.txt")
    touch(tmp_path, ".hidden/images/1.jpg", "notes/text.txt", "empty/images/readme.txt")
    dataset = open_sites(DataConfig(root=str(tmp_path)))
    assert [item.stem for item in dataset.items] == list("1234567")
    assert dataset.sites == ("a",)


def test_a_root_must_be_set():
    message = refused(ConfigError, root="")
    assert message == "data.root is not set; give the folder that holds the sites"


def test_a_root_must_be_a_folder(tmp_path):
    missing, file = tmp_path / "no", tmp_path / "file"
    file.touch()
    layout = "expected ROOT/SITE/images/*.jpg (or png, tif, bmp, webp)"
    mend = (
        "correct data.root, for a run in its config.toml (a relative path starts at the "
        "working directory)"
    )
    text = f"data.root does not exist: {str(missing)!r}; {mend}; {layout}"
    assert refused(root=str(missing)) == text
    relative = refused(root="no/such")
    looked = f"data.root does not exist: 'no/such', looked for at {Path.cwd() / 'no/such'}; {mend};"
    assert relative.startswith(looked)
    assert refused(root=str(file)) == f"data.root is not a folder: {str(file)!r}; {layout}"
    long = "x" * 300
    assert refused(root=long) == f"data.root cannot be read (File name too long): {long}"


def test_an_empty_root_is_told_the_layout(tmp_path):
    assert refused(root=str(tmp_path)) == (
        f"no site found in {str(tmp_path)!r}; "
        "expected ROOT/SITE/images/*.jpg (or png, tif, bmp, webp)"
    )


def test_images_in_the_root_are_recognized(tmp_path):
    touch(tmp_path, "1.jpg")
    assert refused(root=str(tmp_path)) == (
        f"no site found in {str(tmp_path)!r}; the image '1.jpg' lies in {str(tmp_path)!r}; "
        f"move it to {str(tmp_path / 'SITE' / 'images')!r}"
    )


def test_images_in_a_site_without_its_images_folder_are_recognized(tmp_path):
    touch(tmp_path, "a/1.jpg")
    assert refused(root=str(tmp_path)) == (
        f"no site found in {str(tmp_path)!r}; the image '1.jpg' lies in {str(tmp_path / 'a')!r}; "
        f"move it to {str(tmp_path / 'a' / 'images')!r}"
    )


def test_images_in_a_folder_with_another_name_are_recognized(tmp_path):
    touch(tmp_path, "a/Images/1.jpg")
    assert refused(root=str(tmp_path)) == (
        f"no site found in {str(tmp_path)!r}; the image '1.jpg' lies in "
        f"{str(tmp_path / 'a' / 'Images')!r}; move it to {str(tmp_path / 'a' / 'images')!r}"
    )


def test_a_root_that_is_one_site_is_recognized(tmp_path):
    touch(tmp_path, "images/1.jpg")
    assert refused(root=str(tmp_path)) == (
        f"no site found in {str(tmp_path)!r}; it looks like a single site; "
        "give the folder above it as data.root"
    )


def test_two_images_of_one_stem_are_refused(tmp_path):
    touch(tmp_path, "a/images/1.jpg", "a/images/1.png")
    assert refused(root=str(tmp_path)) == (
        f"two files share the stem '1', 1.jpg and 1.png; rename one: {tmp_path / 'a' / 'images'}"
    )


@pytest.mark.parametrize("key", ["train_split", "held_out_split"])
def test_a_split_needs_a_table(tmp_path, key):
    touch(tmp_path, "a/images/1.jpg")
    assert refused(root=str(tmp_path), **{key: "val"}) == (
        f"data.{key} is 'val', but there is no table of splits: {tmp_path / 'splits.csv'}; "
        f"write one (columns stem, site, split) or leave data.{key} empty"
    )


def test_another_table_of_splits_can_be_named(tmp_path):
    touch(tmp_path, "a/images/1.jpg")
    (tmp_path / "mine.csv").write_text("stem,site,split\n1,a,test\n")
    dataset = open_sites(DataConfig(root=str(tmp_path), splits="mine.csv", train_split="test"))
    assert dataset.items[0].split == "test"


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system refuses such names")
@pytest.mark.parametrize("name", ["caf\udce9/images/1.jpg", "a/images/caf\udce9.jpg"])
def test_names_that_are_not_utf8_are_refused(tmp_path, name):
    touch(tmp_path, "b/images/1.jpg", name)
    bad = os.path.join(tmp_path, name.removesuffix("/images/1.jpg"))
    shown = ascii(bad)
    assert "caf\\udce9" in shown
    assert refused(root=str(tmp_path)) == f"a name is not valid UTF-8, rename it: {shown}"


def test_other_files_may_have_any_name(tmp_path):
    touch(tmp_path, "a/images/1.jpg", "a/images/\udce9.txt", "\udce9.txt")
    assert len(open_sites(DataConfig(root=str(tmp_path))).items) == 1
