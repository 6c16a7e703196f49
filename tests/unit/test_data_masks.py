import numpy as np
import pytest
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.items import Classes, Item
from fusseg.data.masks import infer_classes, load_mask
from fusseg.data.synthetic.scenes import Scene

TWO = Classes(("background", "pipe"))


def item_with(tmp_path, mask, stem="a", image_shape=None, **options):
    """Save a mask, an array or an image, beside an image of its shape."""
    mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    height, width = image_shape or (mask.height, mask.width)
    Image.new("RGB", (width, height)).save(tmp_path / f"{stem}.jpg", **options)
    mask.save(tmp_path / f"{stem}.png")
    return Item("site", stem, "", tmp_path / f"{stem}.jpg", tmp_path / f"{stem}.png")


def refused(item, classes=TWO):
    with pytest.raises(DataError) as caught:
        load_mask(item, classes)
    return str(caught.value)


def test_pixels_are_class_indices(tmp_path):
    values = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    item = item_with(tmp_path, values)
    np.testing.assert_array_equal(load_mask(item, Classes(("a", "b"), 255)), values)


def test_palette_indices_are_taken_as_they_are(tmp_path):
    values = np.array([[0, 1], [1, 0]], np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    assert palette.mode == "P"
    np.testing.assert_array_equal(load_mask(item_with(tmp_path, palette), TWO), values)


def test_one_bit_masks_hold_the_classes_0_and_1(tmp_path):
    values = np.array([[False, True]])
    np.testing.assert_array_equal(load_mask(item_with(tmp_path, values), TWO), [[0, 1]])


def test_a_mask_fits_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    item = item_with(tmp_path, np.zeros((6, 4), np.uint8), image_shape=(4, 6), exif=exif)
    assert load_mask(item, TWO).shape == (6, 4)


def test_masks_of_scenes_are_drawn():
    scene = Scene("pipes", "yard", 0, 0)
    mask = load_mask(Item("yard", "0", "", scene, scene), TWO)
    assert set(np.unique(mask)) == {0, 1}
    assert mask.flags.writeable


def test_strange_values_are_named(tmp_path):
    item = item_with(tmp_path, np.array([[0, 1, 7, 9]], np.uint8))
    assert refused(item) == (
        "mask has the values 7, 9, neither a class (0 to 1) nor ignored; correct the mask, or "
        f"add names or an ignore_index to classes.toml: {item.mask}"
    )
    item = item_with(tmp_path, np.arange(10, dtype=np.uint8)[None, :])
    assert "values 2, 3, 4, 5, 6, ..., neither" in refused(item)


def test_black_and_white_masks_get_their_own_advice(tmp_path):
    item = item_with(tmp_path, np.array([[0, 255]], np.uint8))
    assert refused(item) == (
        "mask has the values 255, neither a class (0 to 1) nor ignored; write 1 in place of 255 "
        f"in black-and-white masks, or set ignore_index = 255: {item.mask}"
    )


def test_another_shape_than_the_image_is_refused(tmp_path):
    item = item_with(tmp_path, np.zeros((5, 7), np.uint8), image_shape=(10, 14))
    assert refused(item) == (
        f"mask of shape (5, 7) does not fit its image of shape (10, 14): {item.mask}"
    )


@pytest.mark.parametrize(
    ("mask", "what"),
    [
        (np.zeros((2, 2, 3), np.uint8), "several channels (R, G, B)"),
        (np.zeros((2, 2, 4), np.uint8), "several channels (R, G, B, A)"),
        (np.array([[3, 26001]], np.uint16), "more than 8 bits in a pixel (values 3 to 26001)"),
    ],
)
def test_color_and_16_bit_masks_are_refused(tmp_path, mask, what):
    item = item_with(tmp_path, mask)
    message = refused(item)
    assert message.startswith(f"mask has {what}; store the class index of each pixel")
    assert message.endswith(f": {item.mask}")


def test_broken_and_missing_masks_are_named(tmp_path):
    item = item_with(tmp_path, np.zeros((2, 2), np.uint8))
    item.mask.write_bytes(b"no mask")
    assert refused(item) == f"mask is not a JPEG, PNG, TIFF, BMP or WebP file: {item.mask}"
    item.mask.write_bytes(b"")
    assert refused(item) == f"mask is empty (0 bytes): {item.mask}"
    bare = Item("site", "b", "", item.image)
    assert refused(bare) == f"image has no mask; put one at masks/b.png: {item.image}"


def test_classes_are_inferred_from_the_largest_value(tmp_path):
    items = [
        item_with(tmp_path, np.array([[0, 3]], np.uint8), "a"),
        item_with(tmp_path, np.array([[1, 255]], np.uint8), "b"),
        Item("site", "c", "", tmp_path / "c.jpg"),
    ]
    assert infer_classes(items) == Classes(("0", "1", "2", "3"), 255)


def test_classes_are_not_inferred_from_nothing():
    with pytest.raises(DataError) as caught:
        infer_classes([])
    assert str(caught.value) == "no mask to infer the classes from; add a classes.toml"


def test_classes_are_not_inferred_from_black_and_white(tmp_path):
    with pytest.raises(DataError) as caught:
        infer_classes([item_with(tmp_path, np.array([[0, 255]], np.uint8))])
    message = str(caught.value)
    assert message.startswith("masks hold no values but 0 and 255, and 255 is ignored")
    assert "(1 in place of 255)" in message
    assert "ignore_index = 255" in message
    assert message.endswith(f": {tmp_path / 'a.png'}")


@pytest.mark.parametrize(("value", "other"), [(1, 0), (7, 0)])
def test_one_class_beside_ignored_pixels_is_not_scored(tmp_path, value, other):
    with pytest.raises(DataError) as caught:
        infer_classes([item_with(tmp_path, np.array([[value, 255]], np.uint8))])
    assert f"no values but {value} and 255" in str(caught.value)
    assert f"({other} in place of 255)" in str(caught.value)
