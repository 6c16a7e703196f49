"""Masks and annotations that nothing reads are warned about, by number, kind and place."""

import os

import pytest

from fusseg.config.schema import DataConfig
from fusseg.data.checks.unused_masks import find_unused_masks
from fusseg.data.layouts import open_dataset


@pytest.fixture
def unused(tmp_path):
    """What is said of a folder with files of these names: place and message."""

    def found(*names, layout="sites", below=""):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        config = DataConfig(layout=layout, root=str(tmp_path / below))
        findings = list(find_unused_masks(open_dataset(config), config))
        assert {finding.severity for finding in findings} <= {"warning"}
        return {
            finding.subject.removeprefix(f"{tmp_path}/"): finding.message for finding in findings
        }

    return found


def test_masks_that_are_read_are_not_mentioned(unused):
    assert unused("s/images/1.jpg", "s/images/2.jpg", "s/masks/1.png", "s/masks/2.tif") == {}
    assert unused("s/masks/.x.bmp", "s/masks/Thumbs.db", "s/masks/readme.txt") == {}


def test_what_lies_beside_the_mask_of_an_image_is_passed_over(unused):
    names = ("s/images/1.jpg", "s/masks/1.png", "s/masks/1.jpg", "s/masks/1.npy", "s/masks/x/1.png")
    assert unused(*names, "s/labels/1.txt", "annotations/instances.json", "s/images/1.json") == {}


def test_kinds_that_are_not_read_are_counted_by_kind(unused):
    images = [f"s/images/{stem}.jpg" for stem in "1234"]
    (message,) = unused(
        *images, "s/masks/1.bmp", "s/masks/2.BMP", "s/masks/3.npy", "s/masks/4.png"
    ).values()
    assert message.startswith(
        "3 label files are not read (2 *.bmp, 1 *.npy), the first: '1.bmp'; a mask is a PNG"
    )


def test_masks_that_belong_to_no_image_are_told_their_name(unused):
    found = unused("s/images/1.jpg", "s/masks/1_labelTrainIds.png", "s/masks/1_color.png")
    assert found == {
        "s/masks": "2 masks without an image, the first: '1_color.png'; a mask has the name of its "
        "image, 1.png"
    }


def test_masks_in_deeper_folders_are_counted(unused):
    (message,) = unused("s/images/1.jpg", "s/masks/day/1.png").values()
    assert message.startswith("1 label file below it is not read (1 *.png), the first: '1.png'")


@pytest.mark.parametrize("folder", ["labels", "Masks", "annotations", "gt", "SegmentationClass"])
def test_folders_of_other_names_are_looked_into(unused, folder):
    found = unused("s/images/1.jpg", f"s/{folder}/1.png", f"s/{folder}/1.txt", "s/other/1.png")
    assert list(found) == [f"s/{folder}"]
    assert "2 label files are not read (1 *.png, 1 *.txt)" in found[f"s/{folder}"]
    assert "s/masks" in found[f"s/{folder}"]


def test_coco_annotations_are_named_wherever_they_lie(unused, tmp_path):
    found = unused("s/images/1.jpg", "annotations/instances.json", "s/_annotations.coco.json")
    assert found.keys() == {"annotations", "s"}
    assert (
        "1 label file is not read (1 *.json), the first: 'instances.json'" in found["annotations"]
    )
    assert "first: '_annotations.coco.json'" in found["s"]
    assert f"masks are read from {tmp_path}/s/masks" in found["s"]
    assert "first: '1.json'" in unused("t/images/1.jpg", "t/images/1.json")["t"]


def test_a_plain_folder_says_how_its_masks_would_be_read(unused):
    found = unused("1.jpg", "masks/1.png", layout="images")
    assert "1 label file is not read (1 *.png)" in found["masks"]
    assert 'data.layout = "sites"' in found["masks"]
    found = unused("one/images/1.jpg", "one/masks/1.png", layout="images", below="one/images")
    assert list(found) == ["one/masks"]
    assert "data.root to the folder above" in found["one/masks"]


def test_cityscapes_labels_of_other_kinds_are_named_where_ids_are_missing(unused):
    city = "gtFine/train/ulm/ulm_000000_000019"
    image = "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png"
    others = [f"{city}_gtFine_labelTrainIds.png", f"{city}_gtFine_polygons.json"]
    coarse = "gtCoarse/train/ulm/ulm_000000_000019_gtCoarse_labelIds.png"
    found = unused(image, *others, coarse, layout="cityscapes")
    assert found.keys() == {"gtFine", "gtCoarse"}
    assert found["gtFine"].startswith(
        "2 label files are not read (1 *_gtFine_labelTrainIds.png, 1 *_gtFine_polygons.json)"
    )
    assert "gtFine/SPLIT/CITY/*_gtFine_labelIds.png" in found["gtFine"]
    assert unused(f"{city}_gtFine_labelIds.png", layout="cityscapes") == {}


def test_coco_annotations_beside_missing_pixel_maps_are_named(unused):
    names = ("images/val2017/1.jpg", "images/val2017/2.jpg", "annotations/stuff.json")
    maps = ("stuffthingmaps/val2017/1.png", "stuffthingmaps/val2017/2_labelTrainIds.png")
    found = unused(*names, *maps, layout="coco-stuff")
    assert found.keys() == {"annotations", "stuffthingmaps/val2017"}
    assert "stuffthingmaps_trainval2017.zip" in found["annotations"]
    assert "first: '2_labelTrainIds.png'" in found["stuffthingmaps/val2017"]
    assert unused("stuffthingmaps/val2017/2.png", layout="coco-stuff") == {}


def test_names_that_are_not_utf_8_are_printed_with_escapes(unused):
    name = os.fsdecode(b"s/masks/K\xfche.bmp")
    (message,) = unused("s/images/1.jpg", name).values()
    assert "K\\udcfche.bmp" in message
