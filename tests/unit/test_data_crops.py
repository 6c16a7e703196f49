import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg.data.crops import CROPS, cut_up
from fusseg.data.geometry import cut, shared_shape
from fusseg.data.images import image_shape, load_image
from fusseg.data.items import Classes, Item
from fusseg.data.masks import count_classes, load_mask
from fusseg.data.synthetic.scenes import SCENE_SHAPE, Scene
from fusseg.features.extraction import digest_item

EVEN = np.arange(4 * 8, dtype=np.uint8).reshape(4, 8)


@pytest.fixture
def item(tmp_path):
    """A gray image of 4 x 8 pixels that count up, with a mask of the same pixels."""
    for name in ("image", "mask"):
        Image.fromarray(EVEN).save(tmp_path / f"{name}.png")
    return Item("s", "x", "train", tmp_path / "image.png", tmp_path / "mask.png", "client-3")


def test_each_image_becomes_its_quarters_and_its_center(item):
    crops = cut_up([item], "five")
    assert [crop.stem for crop in crops] == [
        "x#top-left",
        "x#top-right",
        "x#bottom-left",
        "x#bottom-right",
        "x#center",
    ]
    assert {(crop.site, crop.split, crop.client) for crop in crops} == {("s", "train", "client-3")}
    assert cut_up([item], "none") == (item,)
    parts = [EVEN[:2, :4], EVEN[:2, 4:], EVEN[2:, :4], EVEN[2:, 4:], EVEN[1:3, 2:6]]
    classes = Classes(tuple(map(str, range(32))))
    for crop, part in zip(crops, parts, strict=True):
        np.testing.assert_array_equal(load_image(crop), np.repeat(part[:, :, None], 3, axis=2))
        np.testing.assert_array_equal(load_mask(crop, classes), part)
        np.testing.assert_array_equal(np.flatnonzero(count_classes(crop, classes)), part.ravel())
        assert image_shape(crop) == (2, 4)


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (2, 3), (427, 640)])
def test_crops_of_odd_images_have_one_size_and_reach_the_edges(shape):
    pixels = np.arange(np.prod(shape)).reshape(shape)
    parts = {crop.name: cut(pixels, crop.share) for crop in CROPS["five"]}
    expected = (max(1, shape[0] // 2), max(1, shape[1] // 2))
    assert {part.shape for part in parts.values()} == {expected}
    assert shared_shape(shape, CROPS["five"][0].share) == expected
    assert parts["top-left"][0, 0] == pixels[0, 0]
    assert parts["top-right"][0, -1] == pixels[0, -1]
    assert parts["bottom-left"][-1, 0] == pixels[-1, 0]
    assert parts["bottom-right"][-1, -1] == pixels[-1, -1]
    row, column = np.unravel_index(parts["center"][0, 0], shape)
    assert abs(shape[0] - expected[0] - 2 * row) <= 1
    assert abs(shape[1] - expected[1] - 2 * column) <= 1


def test_all_of_an_image_is_a_part_too():
    np.testing.assert_array_equal(cut(EVEN, (0.0, 0.0, 1.0, 1.0)), EVEN)


def test_scenes_are_cut_like_files():
    scene = Scene("pipes", "hall", 0, 5)
    whole = Item("hall", "0", "", scene, scene)
    height, width = SCENE_SHAPE
    crop = cut_up([whole], "five")[3]
    expected = load_image(whole)[height // 2 :, width // 2 :]
    np.testing.assert_array_equal(load_image(crop), expected)


def test_the_digest_tells_crops_apart_and_reads_the_file_once(item):
    contents = {}
    whole = digest_item(item, contents)
    assert whole.digest == hashlib.sha256(Path(item.image).read_bytes()).hexdigest()
    crops = cut_up([item], "five")
    digests = [digest_item(crop, contents).digest for crop in crops]
    assert len({whole.digest, *digests}) == 6
    assert [digest_item(crop, {}).digest for crop in crops] == digests
    assert contents == {item.image: whole.digest}


def test_an_item_belongs_to_its_site_unless_a_client_is_named(item):
    assert Item("s", "x", "", Path("x.png")).client == "s"
    assert item.client == "client-3"
