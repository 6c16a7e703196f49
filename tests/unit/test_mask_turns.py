"""Where only one of image and mask is turned by its EXIF orientation, it is said which."""

import numpy as np
import pytest
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.items import Classes, Item
from fusseg.data.mask_turns import find_turned
from fusseg.data.masks import load_mask

TWO = Classes(("ground", "pipe"))


@pytest.fixture
def make_item(tmp_path):
    """Save an image and a mask of sizes (height, width) as stored, each with an orientation."""

    def make(image_size, mask_size, image_turn=1, mask_turn=1, stem="a"):
        paths = tmp_path / f"{stem}.jpg", tmp_path / f"{stem}.png"
        for path, (height, width), mode, turn in (
            (paths[0], image_size, "RGB", image_turn),
            (paths[1], mask_size, "L", mask_turn),
        ):
            exif = Image.Exif()
            if turn != 1:
                exif[0x0112] = turn
            Image.new(mode, (width, height)).save(path, exif=exif)
        return Item("yard", stem, "", *paths)

    return make


def said(*items):
    return [(finding.severity, finding.subject, finding.message) for finding in find_turned(items)]


def test_nothing_is_said_where_neither_or_both_are_turned(make_item):
    assert said(make_item((4, 6), (4, 6))) == []
    assert said(make_item((4, 6), (4, 6), 6, 6)) == []
    assert said(Item("yard", "b", "", make_item((4, 6), (4, 6), 6).image)) == []


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_turned_image_is_told_by_its_size(make_item, turn):
    item = make_item((4, 6), (6, 4), turn)
    ((severity, subject, message),) = said(item)
    assert (severity, subject) == ("warning", "yard/a.jpg")
    assert f"the image is turned upright by its EXIF orientation {turn}, the mask is not" in message
    assert "size of the turned image" in message
    assert "both are 6 x 4" in message
    assert message.endswith(f": {item.mask}")
    assert load_mask(item, TWO).shape == (6, 4)


@pytest.mark.parametrize(("size", "turn"), [((4, 6), 3), ((4, 6), 2), ((5, 5), 6), ((5, 5), 8)])
def test_it_is_said_where_the_size_tells_nothing(make_item, size, turn):
    ((_, _, message),) = said(make_item(size, size, turn))
    assert f"EXIF orientation {turn}, the mask is not" in message
    assert "it is unclear whether" in message


def test_a_mask_that_alone_is_turned_is_named(make_item):
    ((_, _, message),) = said(make_item((6, 4), (4, 6), 1, 6))
    assert "the mask is turned by its EXIF orientation 6, the image is not" in message
    ((_, _, message),) = said(make_item((6, 4), (4, 6), 3, 6))
    assert "the image is turned by its EXIF orientation 3, the mask by its own, 6" in message


def test_images_of_a_site_are_counted(make_item):
    items = [make_item((4, 6), (6, 4), 6, stem=stem) for stem in "abc"]
    ((_, subject, message),) = said(*items)
    assert subject == "yard/a.jpg"
    assert "2 more images of this site" in message


def test_a_mask_drawn_on_the_stored_image_does_not_fit_and_says_why(make_item):
    item = make_item((4, 6), (4, 6), 6)
    with pytest.raises(DataError) as caught:
        load_mask(item, TWO)
    message = str(caught.value)
    assert message.startswith("mask of shape (4, 6) does not fit its image of shape (6, 4)")
    assert "the image is turned upright by its EXIF orientation 6" in message
    assert "fits the image as stored" in message
    assert said(item) == []
    with pytest.raises(DataError, match="the mask is turned by its EXIF orientation 8"):
        load_mask(make_item((4, 6), (4, 6), 1, 8), TWO)


def test_a_mask_of_a_third_size_is_not_explained_by_a_turn(make_item):
    with pytest.raises(DataError) as caught:
        load_mask(make_item((4, 6), (8, 12), 6), TWO)
    assert "EXIF" not in str(caught.value)


def test_a_turned_mask_keeps_its_pixels_in_place(make_item):
    item = make_item((2, 3), (2, 3), 6, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    Image.fromarray(stored).save(item.mask, exif=exif)
    # Orientation 6: the left side of what is stored is the top.
    np.testing.assert_array_equal(load_mask(item, TWO), [[0, 0], [0, 1], [1, 1]])
