"""Values that borders were blended into are told from classes, however rare or thin these are."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from fusseg.core.errors import DataError
from fusseg.data.items import Classes, Item
from fusseg.data.mask_values import count_values, find_blends, see_values
from fusseg.data.masks import infer_classes, load_mask

DEGRADED = {
    "blurred": lambda mask: mask.filter(ImageFilter.GaussianBlur(1)),
    "blurred widely": lambda mask: mask.filter(ImageFilter.GaussianBlur(4)),
    "smaller, bilinear": lambda mask: mask.resize((90, 70), Image.Resampling.BILINEAR),
    "larger, bilinear": lambda mask: mask.resize((260, 200), Image.Resampling.BILINEAR),
    "larger, bicubic": lambda mask: mask.resize((260, 200), Image.Resampling.BICUBIC),
    "smaller, lanczos": lambda mask: mask.resize((90, 70), Image.Resampling.LANCZOS),
    "smaller, box": lambda mask: mask.resize((40, 30), Image.Resampling.BOX),
    "JPEG of quality 95": lambda mask: through_jpeg(mask, 95),
    "JPEG of quality 75": lambda mask: through_jpeg(mask, 75),
    "JPEG of quality 30": lambda mask: through_jpeg(mask, 30),
}
LEVELS = {
    "black and white": (0, 255),
    "two": (0, 200),
    "three": (0, 100, 200),
    "with 255": (0, 128, 255),
    "spread over a byte": (0, 85, 170, 255),
    "many": (10, 20, 30, 40, 60),
}


def through_jpeg(mask, quality):
    buffer = io.BytesIO()
    mask.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def draw(levels, seed=0):
    """Draw ellipses of each level."""
    generator = np.random.default_rng(seed)
    mask = Image.new("L", (130, 100), levels[0])
    for index in range(8):
        (x, y), (width, height) = generator.integers(0, 100, 2), generator.integers(10, 40, 2)
        box = [int(x - width), int(y - height), int(x + width), int(y + height)]
        ImageDraw.Draw(mask).ellipse(box, fill=levels[index % len(levels)])
    return mask


def blends_of(*masks):
    return see_values((index, np.asarray(mask)) for index, mask in enumerate(masks)).blends()


def test_pixels_are_counted_by_what_lies_around_them():
    mask = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 9, 9],
            [0, 0, 0, 0, 9, 9],
            [0, 0, 5, 0, 9, 9],
            [0, 0, 7, 9, 9, 9],
        ],
        np.uint8,
    )
    counts = count_values(mask)
    occurring = {value: int(counts.pixels[value]) for value in sorted(counts.values)}
    assert occurring == {0: 19, 5: 1, 7: 1, 9: 9}
    # 0: the left column and the top two of the next two; 9: the right column below its top.
    assert {value: int(counts.solid[value]) for value in occurring} == {0: 9, 5: 0, 7: 0, 9: 3}
    assert {value: int(counts.between[value]) for value in occurring} == {0: 0, 5: 1, 7: 1, 9: 0}


def test_ignored_pixels_around_a_point_leave_it_solid():
    mask = np.full((5, 5), 255, np.uint8)
    mask[2, 2] = 3
    assert count_values(mask).solid[3] == 1


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("degrade", DEGRADED.values(), ids=DEGRADED)
def test_blends_and_noise_are_found(degrade, levels):
    masks = [draw(levels, seed) for seed in range(3)]
    assert blends_of(*masks) == ()
    assert blends_of(*map(degrade, masks))


def test_one_smoothed_mask_among_many_good_ones_is_found():
    good = [draw(range(23), seed) for seed in range(20)]
    assert blends_of(*good) == ()
    bad = draw((0, 255)).filter(ImageFilter.GaussianBlur(1))
    assert blends_of(*good, bad)


def thin_classes():
    """A cable of one pixel, a pole of two, and lane marks on a background."""
    mask = np.zeros((60, 80), np.uint8)
    mask[10], mask[:, 40:42] = 1, 2
    for number in range(3):
        mask[np.arange(20, 60), 10 + 20 * number + np.arange(40) // 4] = 3 + number
    return mask


def outlined():
    """Cells whose borders are a class of their own, between background and inside."""
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 10:40], mask[11:39, 11:39] = 1, 2
    return mask


def scattered_points():
    """Single labeled pixels in an image that is ignored else."""
    mask = np.full((60, 80), 255, np.uint8)
    mask[5:60:10, 5:80:10] = np.arange(48).reshape(6, 8)
    return mask


def sparse_numbering():
    """Fine classes of a large data set of which a few occur, one of them small."""
    mask = np.full((60, 80), 124, np.uint8)
    mask[20:50, 10:40], mask[5:9, 60:64], mask[30, 50:60] = 0, 180, 42
    return mask


def border_of_void():
    """Objects as Pascal VOC has them, with a border that is ignored."""
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 10:40], mask[12:38, 12:38] = 255, 15
    return mask


def classes_of_single_pixels():
    """Nothing but specks, such as a coarse map of a patchy ground."""
    return np.resize(np.array([0, 15, 255], np.uint8), (60, 80))


HONEST = [
    classes_of_single_pixels,
    thin_classes,
    outlined,
    scattered_points,
    sparse_numbering,
    border_of_void,
]


@pytest.mark.parametrize("draw_mask", HONEST, ids=lambda one: one.__name__)
def test_thin_rare_and_sparse_classes_are_left_alone(draw_mask):
    assert find_blends(count_values(draw_mask())) == ()


def save(tmp_path, mask, stem="a"):
    Image.new("RGB", mask.size).save(tmp_path / f"{stem}.jpg")
    mask.save(tmp_path / f"{stem}.png")
    return Item("site", stem, "", tmp_path / f"{stem}.jpg", tmp_path / f"{stem}.png")


def test_smoothed_masks_are_refused_unless_their_values_are_named(tmp_path):
    item = save(tmp_path, draw((0, 255)).filter(ImageFilter.SMOOTH))
    with pytest.raises(DataError) as caught:
        infer_classes([save(tmp_path, draw((0, 1)), "b"), item])
    message = str(caught.value)
    assert "smoothed, scaled, or once stored as JPEG" in message
    assert "classes.toml" in message
    assert message.endswith(f": {item.mask}")
    named = Classes(tuple(str(value) for value in range(255)), 255)
    np.testing.assert_array_equal(load_mask(item, named), np.asarray(Image.open(item.mask)))
