"""A folder looked over: layout, usual shape, splits."""

from pathlib import Path

import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.checks.survey import (
    choose_size,
    choose_split_sites,
    choose_splits,
    find_layout,
    sites_of_split,
)
from fusseg.data.items import Dataset, Item


def items(folder, *shapes):
    """An image file of each shape (height, width)."""
    found = []
    for number, (height, width) in enumerate(shapes):
        path = folder / f"{number}.png"
        Image.new("L", (width, height)).save(path)
        found.append(Item("a", str(number), "", path))
    return found


def split_item(site, split):
    return Item(site, "x", split, Path("x.png"))


@pytest.mark.parametrize(
    ("files", "layout", "root"),
    [
        (["a/images/1.png"], "sites", ""),
        (["1.png"], "images", ""),
        (["images/1.png", "masks/1.png"], "images", "images"),
        (["leftImg8bit/train/a/1.png"], "cityscapes", ""),
        (["stuffthingmaps/train2017/1.png", "images/train2017/1.jpg"], "coco-stuff", ""),
        (["1.png", "1.jpg"], "images", ""),  # what is wrong with the names is said later
        (["readme.txt"], "sites", ""),
    ],
)
def test_the_layout_is_told_by_what_lies_in_the_folder(tmp_path, files, layout, root):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_layout(tmp_path) == DataConfig(layout=layout, root=str(tmp_path / root))


@pytest.mark.parametrize(
    ("shapes", "stride", "size"),
    [
        ([(480, 640)], 8, (320, 424)),  # 426.7 is nearest to 53 * 8
        ([(640, 480)], 16, (432, 320)),  # 426.7 is nearest to 27 * 16
        ([(100, 100)], 8, (96, 96)),  # small images stay small; 12.5 strides round to even
        ([(480, 640), (640, 480)], 8, (320, 320)),  # both orientations
        ([(100, 5000)], 10, (100, 300)),  # no more than 3 times as long
        ([(480, 640)] * 9 + [(640, 480)], 8, (320, 424)),  # an exception changes nothing
        ([(5, 5)], 8, (16, 16)),  # the smallest size there is
    ],
)
def test_the_size_is_the_usual_shape_with_320_pixels_at_its_shorter_side(
    tmp_path, shapes, stride, size
):
    assert choose_size(items(tmp_path, *shapes), stride) == size


def test_unreadable_images_are_passed_over_unless_all_are(tmp_path):
    good = items(tmp_path, (64, 64))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    broken = Item("a", "bad", "", bad)
    assert choose_size([broken, *good], 8) == (64, 64)
    with pytest.raises(DataError, match=r"none of the images can be read; .*bad\.png"):
        choose_size([broken], 8)


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (("train", "val", "test"), ("train", "test")),
        (("train", "validation"), ("train", "validation")),
        (("train",), None),
        (("test",), None),
        (("", ""), None),
    ],
)
def test_the_usual_names_of_splits_are_known(splits, chosen):
    dataset = Dataset(tuple(split_item(f"s{n}", split) for n, split in enumerate(splits)), None)
    assert choose_splits(dataset) == chosen


@pytest.mark.parametrize(
    ("sites", "masked", "chosen"),
    [
        (("train", "val", "test"), ("train", "val"), (("train",), "val")),
        (("test", "train", "val"), ("test",), (("train",), "test")),
        (("training", "validation"), (), (("training",), "validation")),
        (("train2017", "val2017"), (), (("train2017",), "val2017")),
        (("Train", "Test", "yard"), (), (("Train",), "Test")),
        (("train", "test"), ("train",), None),
        (("train", "station"), (), None),
        (("test", "val"), (), None),
    ],
)
def test_sites_called_like_splits_are_taken_for_splits(sites, masked, chosen):
    found = tuple(
        Item(site, "x", "", Path("x.png"), Path("m.png") if site in masked else None)
        for site in sites
    )
    assert choose_split_sites(Dataset(found, None)) == chosen


def test_the_sites_of_a_split_are_those_with_images_in_it():
    dataset = Dataset((split_item("b", "test"), split_item("a", "test"), split_item("c", "")), None)
    assert sites_of_split(dataset, "test") == ("a", "b")
