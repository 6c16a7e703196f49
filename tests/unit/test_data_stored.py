import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFilter

from fusseg.data.images import DEFAULT, Decoding
from fusseg.data.items import Item
from fusseg.data.raster import Raster
from fusseg.data.stored import judge_stored, judge_unlike, look_at, look_over, sum_up

TWELVE = Decoding(white_levels=(4095,) * 4)


def deep(*values):
    return Raster(np.array([values], np.uint16)[:, :, None].repeat(3, axis=2), 65535)


def gray(*values):
    return Raster(np.array([values], np.uint16)[:, :, None], 65535)


def said(*images, decoding=DEFAULT):
    stored = [look_at(raster, decoding, site) for site, raster in images]
    return {finding.subject: finding.message for finding in judge_stored(stored, decoding)}


def test_a_site_that_uses_12_of_16_bits_is_told_the_level_and_a_full_one_is_not():
    found = said(("a", gray(0, 2000)), ("a", gray(0, 4000)), ("b", deep(0, 40000)))
    assert found == {
        "a": "16-bit gray images use 0 to 4000 of 65535 (12 bits) and become dark; "
        "set data.white_level = {1 = 4095, 3 = 65535}"
    }


@pytest.mark.parametrize(
    ("highest", "bits"), [(255, 8), (256, 9), (1023, 10), (1024, 11), (4095, 12), (32767, 15)]
)
def test_the_bits_are_those_of_the_largest_value(highest, bits):
    level = 2**bits - 1
    message = said(("a", deep(0, highest)))["a"]
    assert f"use 0 to {highest} of 65535 ({bits} bits)" in message
    assert message.endswith(f"set data.white_level = {level}")


def test_more_than_half_of_the_range_is_not_doubted():
    assert not said(("a", deep(0, 32768)), ("b", gray(65535, 65535)))


def test_the_largest_value_of_the_type_may_mark_what_is_missing():
    assert "use 0 to 4000 of 65535" in said(("a", gray(0, 4000, 65535)))["a"]


def test_sites_of_different_bits_are_told_apart_and_told_a_factor():
    found = said(("a", gray(1000)), ("b", gray(4000)), ("c", gray(60000)))
    assert "10 bits" in found["a"]
    assert "site c uses 16 bits, and all sites share one white level" in found["a"]
    assert "multiply the values of this site's files by 64" in found["a"]
    assert "by 16" in found["b"]
    assert "c" not in found


def test_sites_below_16_bits_agree_on_the_deepest():
    found = said(("a", gray(1000)), ("b", gray(4000)))
    assert found["b"].endswith("set data.white_level = 4095")
    assert found["a"].endswith("by 4, and set data.white_level = 4095")


def test_with_a_level_set_sites_that_fit_it_are_not_doubted():
    assert not said(("a", gray(4000)), ("b", gray(1500)), decoding=TWELVE)


def test_with_a_level_set_sites_beyond_it_and_far_below_it_are_told():
    found = said(("a", gray(4000)), ("b", gray(500)), ("c", gray(50000)), decoding=TWELVE)
    assert "100% of the values" in found["c"]
    assert "lie above data.white_level = 4095" in found["c"]
    assert "use 0 to 500 of 4095 (9 bits)" in found["b"]
    assert "a" not in found


def test_few_values_above_the_level_are_left_to_clip():
    values = np.full((10, 200, 1), 4000, np.uint16)
    values[0, :10] = 6000
    assert not said(("a", Raster(values, 65535)), decoding=TWELVE)


def test_8_bit_files_are_not_doubted_however_dark():
    assert not said(("a", Raster(np.full((2, 2, 3), 3, np.uint8), 255)))


NOISE = np.random.default_rng(0).integers(1, 250, (60, 80)).astype(np.uint8)


def with_alpha(alpha, bands=3):
    largest = int(np.iinfo(alpha.dtype).max)
    colors = np.full((*alpha.shape, bands), 0.8 * largest).astype(alpha.dtype)
    return Raster(np.concatenate([colors, alpha[:, :, None]], axis=2), largest)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_band_that_varies_everywhere_is_no_transparency(kind, bands):
    near_infrared = NOISE.astype(kind) * kind(1 if kind == np.uint8 else 257)
    found = said(("a", with_alpha(near_infrared, bands)), ("b", with_alpha(near_infrared * 0)))
    assert "in 1 of 1 images the last band" in found["a"]
    assert 'data.alpha_channel = "ignore"' in found["a"]
    assert "b" not in found
    ignoring = Decoding(alpha_channel="ignore")
    assert "a" not in said(("a", with_alpha(NOISE)), decoding=ignoring)


def test_12_bits_of_near_infrared_in_16_bits_are_no_transparency():
    raster = with_alpha(NOISE.astype(np.uint16) * 16)
    assert look_at(raster, DEFAULT).alpha_varies


def cut_out(blur):
    """A disk with a smooth edge, or the shadow of one behind it."""
    mask = Image.new("L", (120, 120))
    ImageDraw.Draw(mask).ellipse((30, 30, 90, 90), fill=255)
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)))
    return np.maximum(np.asarray(mask), soft // 2)


def test_nothing_at_the_rim_does_not_make_near_infrared_transparency():
    near_infrared = NOISE.copy()
    near_infrared[:, 32:] = 0
    assert "a" in said(("a", with_alpha(near_infrared)))


@pytest.mark.parametrize("blur", [0, 1, 6, 12, 24, 48])
def test_a_smooth_edge_and_a_soft_shadow_are_transparency(blur):
    assert not said(("a", with_alpha(cut_out(blur))))


def test_one_haze_over_all_of_an_image_is_transparency():
    assert not said(("a", with_alpha(np.full((60, 80), 128, np.uint8))))


def test_only_files_that_hold_more_than_8_bit_colors_are_decoded(tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    items = []
    for name in ("0.png", "1.jpg", "2.tif"):
        Image.fromarray(plain).save(tmp_path / name)
        items.append(Item("a", name, "", tmp_path / name))
    # A header that says 8-bit RGB, and nothing behind it.
    broken = tmp_path / "3.png"
    broken.write_bytes((tmp_path / "0.png").read_bytes()[:40])
    items.append(Item("a", "3", "", broken))
    tifffile.imwrite(tmp_path / "4.tif", plain.astype(np.uint16), photometric="rgb")
    Image.fromarray(NOISE.astype(np.uint16)).save(tmp_path / "5.png")
    items += [Item("a", name, "", tmp_path / name) for name in ("4.tif", "5.png")]
    found = look_over(items, DEFAULT)
    assert [one.highest for one in found] == [255, 255, 255, 255, plain.max(), NOISE.max()]


def test_some_images_of_every_site_are_looked_at_and_unreadable_ones_passed_over(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    items = [
        Item(site, str(index), "", tmp_path / f"{site}{index}.png")
        for site in "ab"
        for index in range(40)
    ]
    assert look_over(items, DEFAULT) == []
    for item in items:
        item.image.write_bytes(path.read_bytes())
    counts = [sum(one.site == site for one in look_over(items, DEFAULT)) for site in "ab"]
    assert counts == [8, 8]


def test_images_unlike_those_of_training_are_told_and_like_ones_are_not():
    full, twelve = look_at(deep(60000), DEFAULT), look_at(deep(4000), DEFAULT)
    plain = look_at(Raster(np.zeros((2, 2, 3), np.uint8), 255), DEFAULT)

    def unlike(images, trained):
        return [finding.message for finding in judge_unlike(images, sum_up(trained), DEFAULT)]

    assert not unlike([twelve], [twelve])
    assert not unlike([full, plain], [full])
    assert not unlike([full], [])
    (message,) = unlike([twelve], [plain])
    assert "use 0 to 4000 of 65535, 6% of the range" in message
    assert message.endswith("by 16")
    (message,) = unlike([plain], [twelve])
    assert "while the training images used 6%" in message
    (message,) = unlike([twelve], [])
    assert "6% of the range" in message


def test_what_stands_in_a_record_names_no_site():
    stored = [look_at(gray(10, 4000), TWELVE, "clinic"), look_at(gray(4090), TWELVE, "other")]
    assert sum_up(stored) == [{"gray": True, "largest": 65535, "white": 4095, "highest": 4090}]
