"""Images that no layout reads are warned about, by number and place."""

import os

import pytest

from fusseg.config.schema import DataConfig
from fusseg.data.checks.unused import find_unused
from fusseg.data.findings import Finding


@pytest.fixture
def unused(tmp_path):
    """What is said of a folder with files of these names."""

    def found(*names, layout="sites"):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        findings = list(find_unused(DataConfig(layout=layout, root=str(tmp_path))))
        assert {finding.severity for finding in findings} <= {"warning"}
        return {(finding.subject, finding.message) for finding in findings}

    return found


def test_images_where_they_belong_are_not_mentioned(unused, tmp_path):
    names = ("a/images/1.jpg", "a/images/2.JPG", "a/masks/1.png", "a/overlays/1.png", "splits.csv")
    (tmp_path / "empty").mkdir()
    assert unused(*names, "docs/readme.txt", ".cache/1.jpg", "a/images/.thumbs/1.jpg") == set()


def test_folders_of_images_that_are_no_sites_are_named(unused):
    assert unused("s/images/1.jpg", "flat/1.jpg", "flat/2.PNG", "Z/Images/1.jpg") == {
        ("flat", "2 images, but no folder 'images'; it is not a site; move them to flat/images"),
        ("Z/Images", "1 image, but no folder 'images'; it is not a site; move it to Z/images"),
    }
    assert (
        "flat",
        "3 images, but no folder 'images'; it is not a site; move them to flat/images",
    ) in (unused("flat/x/3.jpg"))


def test_folders_of_masks_are_not_taken_for_images(unused):
    masks = ("labels/1.png", "ground_truth/x/1.png", "flat/SegmentationClass/1.png")
    assert unused("s/images/1.jpg", "train_masks/1.png", *masks) == set()


def test_loose_images_are_counted(unused, tmp_path):
    assert unused("s/images/1.jpg", "1.jpg", "2.jpg", "s/3.jpg") == {
        (str(tmp_path), "2 images outside of sites; move them to SITE/images"),
        ("s", "1 image beside its folder 'images'; move it into it"),
    }


def test_a_site_without_images_says_what_lies_in_it(unused):
    assert unused("s/images/1.HEIC", "s/images/2.nef", "s/images/day/3.jpg") == {
        ("s", "no image in its folder 'images'; it is not a site"),
        ("s", "1 image in folders below images/ is not used; move it up"),
        (
            "s",
            "2 files of a format that is not read (.heic, .nef); convert them to JPEG or PNG",
        ),
    }


def test_a_raw_file_beside_its_jpeg_is_not_missed(unused):
    assert unused("s/images/1.jpg", "s/images/1.nef", "s/images/2.jpg", "s/images/3.nef") == {
        ("s", "1 file of a format that is not read (.nef); convert it to JPEG or PNG")
    }


def test_a_plain_folder_is_looked_at_too(unused, tmp_path):
    names = ("1.jpg", "2.avif", "masks/1.png", "day/2.jpg", "day/3.jpg")
    assert unused(*names, layout="images") == {
        (str(tmp_path), "2 images in sub-folders are not used; move them up"),
        (str(tmp_path), "1 file of a format that is not read (.avif); convert it to JPEG or PNG"),
    }
    assert unused(*names, layout="cityscapes") == set()


def test_links_to_sites_are_followed_and_loops_are_not(unused, tmp_path):
    unused("elsewhere/images/1.jpg")
    data = tmp_path / "data"
    data.mkdir()
    (data / "s").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "images" / "loop").symlink_to(tmp_path / "elsewhere" / "images")
    (tmp_path / "elsewhere" / "images" / "2.gif").touch()
    assert list(find_unused(DataConfig(root=str(data)))) == [
        Finding(
            "warning", "s", "1 file of a format that is not read (.gif); convert it to JPEG or PNG"
        )
    ]


def test_names_that_are_not_utf_8_are_printed_with_escapes(unused, tmp_path):
    (tmp_path / os.fsdecode(b"K\xfche")).mkdir()
    assert unused("s/images/1.jpg", os.fsdecode(b"K\xfche/1.jpg")) == {
        (
            "K\\udcfche",
            "1 image, but no folder 'images'; it is not a site; move it to K\\udcfche/images",
        )
    }
