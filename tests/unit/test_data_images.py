import io
import os
import re
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.decoding import decode, decoded_shape
from fusseg.data.images import (
    DEFAULT,
    Decoding,
    decoding_of,
    image_shape,
    load_image,
    raster_of,
    read_bytes,
    to_rgb,
)
from fusseg.data.items import Item
from fusseg.data.synthetic.scenes import Scene, draw_scene

SMOOTH = np.stack(
    [np.add.outer(np.arange(24) * 4, np.arange(32) * 3 + shift) for shift in (0, 30, 60)], axis=2
).astype(np.uint8)


def item_of(path):
    return Item("site", path.stem, "", path)


def saved(tmp_path, name, image, **options):
    image.save(tmp_path / name, **options)
    return item_of(tmp_path / name)


def refused(item):
    with pytest.raises(DataError) as caught:
        load_image(item)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_lossless_formats_come_back_as_they_were(tmp_path, name):
    item = saved(tmp_path, name, Image.fromarray(SMOOTH))
    np.testing.assert_array_equal(load_image(item), SMOOTH)
    assert image_shape(item) == (24, 32)


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {"quality": 95}), ("a.webp", {})])
def test_lossy_formats_come_back_nearly(tmp_path, name, options):
    item = saved(tmp_path, name, Image.fromarray(SMOOTH), **options)
    assert np.abs(load_image(item).astype(int) - SMOOTH).mean() < 4


def test_grayscale_and_one_bit_become_three_equal_channels(tmp_path):
    gray = saved(tmp_path, "gray.png", Image.fromarray(SMOOTH[:, :, 0]))
    np.testing.assert_array_equal(load_image(gray), SMOOTH[:, :, :1].repeat(3, axis=2))
    bits = saved(tmp_path, "bits.png", Image.fromarray(SMOOTH[:, :, 0] > 90))
    expected = (SMOOTH[:, :, 0] > 90) * np.uint8(255)
    np.testing.assert_array_equal(load_image(bits)[:, :, 2], expected)


def test_transparent_pixels_show_white(tmp_path):
    pixels = np.full((2, 3, 4), (200, 100, 0, 255), np.uint8)
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 51
    shown = load_image(saved(tmp_path, "a.png", Image.fromarray(pixels)))
    # 51 / 255 = 0.2: 0.2 * (200, 100, 0) + 0.8 * 255
    assert shown[0, :2].tolist() == [[255, 255, 255], [244, 224, 204]]
    assert shown[1, 2].tolist() == [200, 100, 0]
    gray = np.zeros((2, 2, 2), np.uint8)
    gray[0, 0, 1] = 255
    shown = load_image(saved(tmp_path, "la.png", Image.fromarray(gray)))
    assert shown[:, :, 0].tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palettes_with_a_transparent_color_show_white_there(tmp_path, transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    item = saved(tmp_path, "a.png", image, transparency=transparency)
    assert load_image(item)[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_rgb_with_a_transparent_color_shows_white_there(tmp_path):
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    item = saved(tmp_path, "a.png", image, transparency=(4, 5, 6))
    assert load_image(item)[0].tolist() == [[1, 2, 3], [255, 255, 255]]


def test_cmyk_becomes_rgb(tmp_path):
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    tiff = load_image(saved(tmp_path, "a.tif", cyan))
    assert tiff[8, 8].tolist() == [0, 255, 255]
    # Pillow writes an Adobe marker and inverted values, as Photoshop does
    jpeg = saved(tmp_path, "a.jpg", cyan, quality=95)
    assert b"Adobe" in read_bytes(jpeg)
    assert np.abs(load_image(jpeg)[8, 8].astype(int) - [0, 255, 255]).max() < 8


def test_16_bit_gray_is_scaled_to_8_bit(tmp_path):
    gray = np.array([[0, 257, 25700, 65535]], np.uint16)
    little = saved(tmp_path, "a.png", Image.fromarray(gray))
    assert load_image(little)[0, :, 1].tolist() == [0, 1, 100, 255]
    for order in "<>":
        path = tmp_path / "b.tif"
        tifffile.imwrite(path, gray, byteorder=order)
        assert load_image(item_of(path))[0, :, 1].tolist() == [0, 1, 100, 255]


def test_32_bit_integers_in_16_bit_range_are_taken_as_16_bit(tmp_path):
    values = np.array([[0, 65535]], np.int32)
    item = saved(tmp_path, "a.tif", Image.fromarray(values))
    assert load_image(item)[0, :, 0].tolist() == [0, 255]


def test_16_bit_rgb_is_scaled_to_8_bit(tmp_path):
    deep = SMOOTH.astype(np.uint16) * 257
    tiff = tmp_path / "a.tif"
    tifffile.imwrite(tiff, deep, photometric="rgb")
    np.testing.assert_array_equal(load_image(item_of(tiff)), SMOOTH)
    png = tmp_path / "a.png"
    png.write_bytes(png_of(deep))
    np.testing.assert_array_equal(load_image(item_of(png)), SMOOTH)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_the_white_level_holds_for_every_band_of_16_bits(tmp_path, bands, kind):
    opaque = [65535] * (bands in (2, 4))
    colors = bands - len(opaque)
    # 0, half of 12 bits rounded down, all 12 bits, and beyond them
    stored = [[[value] * colors + opaque for value in (0, 2047, 4095, 60000)]]
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        path.write_bytes(png_of(np.array(stored, np.uint16)))
    else:
        rgb, alpha = colors == 3, ["unassalpha"] if opaque else None
        values = np.array(stored, np.uint16)
        tifffile.imwrite(
            path,
            values[:, :, 0] if bands == 1 else values,
            photometric="rgb" if rgb else "minisblack",
            planarconfig=None if bands == 1 else "contig",
            extrasamples=alpha,
        )
    shown = load_image(item_of(path), Decoding(white_levels=(4095,) * 4))
    # 2047 / 4095 * 255 = 127.47
    assert shown[0].tolist() == [[0] * 3, [127] * 3, [255] * 3, [255] * 3]
    # 2047 / 257 = 7.96, 4095 / 257 = 15.93, 60000 / 257 = 233.46
    assert load_image(item_of(path))[0, :, 0].tolist() == [0, 8, 16, 233]


def test_12_bits_of_gray_keep_their_256_shades(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(path)
    assert len(np.unique(load_image(item_of(path)))) == 17
    shown = load_image(item_of(path), Decoding(white_levels=(4095,) * 4))
    assert len(np.unique(shown)) == 256


def test_a_white_level_beyond_8_bits_leaves_8_bit_images_alone(tmp_path):
    item = saved(tmp_path, "a.png", Image.fromarray(SMOOTH))
    for level in (256, 4095, 65535):
        shown = load_image(item, Decoding(white_levels=(level,) * 4))
        np.testing.assert_array_equal(shown, SMOOTH)
    # Within 8 bits it holds for them, too: 100 of 127 is 201 of 255.
    dim = saved(tmp_path, "b.png", Image.fromarray(np.full((2, 2), 100, np.uint8)))
    assert load_image(dim, Decoding(white_levels=(127,) * 4))[0, 0, 0] == 201


def test_a_table_of_white_levels_goes_by_the_number_of_bands():
    assert decoding_of(DataConfig()) == DEFAULT
    assert decoding_of(DataConfig(white_level=65535)) == DEFAULT
    assert decoding_of(DataConfig(white_level=1023)).white_levels == (1023,) * 4
    table = DataConfig(white_level={"1": 4095, "4": 1023})
    assert decoding_of(table).white_levels == (4095, 4095, 65535, 1023)


def test_transparency_may_be_ignored(tmp_path):
    pixels = np.full((1, 2, 4), (200, 100, 0, 51), np.uint8)
    ignoring = Decoding(alpha_channel="ignore")
    for name in ("a.png", "a.tif", "a.webp"):
        options = {"lossless": True, "exact": True} if name == "a.webp" else {}
        item = saved(tmp_path, name, Image.fromarray(pixels), **options)
        assert load_image(item, ignoring)[0, 0].tolist() == [200, 100, 0]
        assert load_image(item)[0, 0].tolist() == [244, 224, 204]
    gray = saved(tmp_path, "la.png", Image.fromarray(pixels[:, :, 2:]))
    assert load_image(gray, ignoring)[0, 0].tolist() == [0, 0, 0]


def test_16_bit_png_keeps_its_low_bytes_and_its_transparent_color(tmp_path):
    rng = np.random.default_rng(0)
    for bands in (2, 3, 4):
        values = rng.integers(0, 65536, (9, 7, bands)).astype(np.uint16)
        path = tmp_path / f"{bands}.png"
        path.write_bytes(png_of(values))
        np.testing.assert_array_equal(raster_of(item_of(path), path.read_bytes()).values, values)
    values[0, 0, :3], values[0, 1, :3] = (1, 2, 3), (1, 2, 4)
    path.write_bytes(png_of(values[:, :, :3], transparent=(1, 2, 3)))
    assert load_image(item_of(path))[0, :2].tolist() == [[255] * 3, [0] * 3]


def png_of(deep, transparent=None):
    """Encode 16 bits of several bands, which Pillow cannot write; every filter of rows occurs."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    height, width, bands = deep.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows, above = [], np.zeros(width * bands * 2, int)
    for number, row in enumerate(deep):
        stored = np.frombuffer(row.astype(">u2").tobytes(), np.uint8).astype(int)
        left, above_left = (
            np.r_[np.zeros(2 * bands, int), one[: -2 * bands]] for one in (stored, above)
        )
        guess = left + above - above_left
        near = np.abs([guess - left, guess - above, guess - above_left])
        paeth = np.choose(near.argmin(axis=0), [left, above, above_left])
        filters = [0, left, above, (left + above) // 2, paeth]
        rest = (stored - filters[number % 5]) % 256
        rows.append(bytes([number % 5]) + rest.astype(np.uint8).tobytes())
        above = stored
    key = chunk(b"tRNS", struct.pack(">HHH", *transparent)) if transparent else b""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    body = chunk(b"IHDR", header) + key + pixels + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, name, orientation):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 240  # the bright corner is the top left
    # what the camera stores, so that the orientation brings it back upright
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    item = saved(tmp_path, name, image, exif=exif)
    shown = load_image(item)[:, :, 0]
    assert shown.shape == image_shape(item) == (16, 32)
    assert np.abs(shown.astype(int) - upright).mean() < 4


def test_an_unknown_orientation_counts_as_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    item = saved(tmp_path, "a.png", Image.fromarray(SMOOTH), exif=exif)
    np.testing.assert_array_equal(load_image(item), SMOOTH)


def test_a_corrupt_exif_block_does_not_cost_the_image(tmp_path):
    item = saved(tmp_path, "a.jpg", Image.fromarray(SMOOTH), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert load_image(item).shape == (24, 32, 3)


def test_the_first_frame_counts(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for name in ("a.tif", "a.png"):
        item = saved(tmp_path, name, frames[0], save_all=True, append_images=frames[1:])
        assert load_image(item)[0, 0].tolist() == [10, 10, 10]


def test_scenes_load_as_drawn_and_may_be_written_to():
    scene = Scene("pipes", "yard", 0, 0)
    item = Item("yard", "0", "", scene, scene)
    image = load_image(item)
    np.testing.assert_array_equal(image, draw_scene(scene)[0])
    assert image.flags.writeable
    assert read_bytes(item) == image.tobytes()
    np.testing.assert_array_equal(to_rgb(raster_of(item, read_bytes(item)), DEFAULT), image)
    assert image_shape(item) == (240, 320)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    expected = f"image cannot be read (No such file or directory): {path}"
    assert refused(item_of(path)) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    assert refused(item_of(path)) == f"image cannot be read (Permission denied): {path}"


def test_a_folder_called_like_an_image_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.mkdir()
    assert refused(item_of(path)) == f"image is a folder: {path}"


def test_a_pipe_called_like_an_image_does_not_block(tmp_path):
    path = tmp_path / "a.jpg"
    os.mkfifo(path)
    assert refused(item_of(path)) == f"image is not a regular file: {path}"


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(4 * 2**30 + 1)
    assert refused(item_of(path)) == f"image has 4294967297 bytes, more than 4294967296: {path}"


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.touch()
    assert refused(item_of(path)) == f"image is empty (0 bytes): {path}"


def test_something_else_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("<html>404</html>")
    assert refused(item_of(path)) == f"image is not a JPEG, PNG, TIFF, BMP or WebP file: {path}"
    Image.new("L", (4, 4)).save(path, "GIF")
    assert refused(item_of(path)) == f"image is not a JPEG, PNG, TIFF, BMP or WebP file: {path}"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp"])
def test_a_truncated_file_is_broken(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    item = saved(tmp_path, name, Image.fromarray(pixels))
    item.image.write_bytes(read_bytes(item)[:2000])
    pattern = rf"image is broken \(.*truncated.*\): {re.escape(str(item.image))}"
    assert re.fullmatch(pattern, refused(item))


def test_a_huge_image_is_refused_by_its_header(tmp_path):
    path = tmp_path / "a.png"
    small = png_of(np.zeros((1, 1, 3), np.uint16))
    header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 10001, 8, 2, 0, 0, 0)
    path.write_bytes(small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])
    assert refused(item_of(path)) == (
        "image has 20000 x 10001 pixels, more than 200000000 in all; "
        f"scale it down or cut it into parts: {path}"
    )
    with pytest.raises(DataError, match="more than 200000000 in all"):
        image_shape(item_of(path))


def test_an_image_within_the_limit_passes_where_pillow_alone_would_warn(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "PNG")
    assert decode(buffer.getvalue(), "image", "a.png").size == (32, 24)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_floating_point_pixels_are_refused(tmp_path):
    item = saved(tmp_path, "a.tif", Image.fromarray(np.zeros((4, 4), np.float32)))
    assert refused(item) == (
        f"image: 1 band of 32 bits (floating point) is not read; save it as 8-bit RGB: {item.image}"
    )


def test_integers_beyond_16_bit_are_refused(tmp_path):
    item = saved(tmp_path, "a.tif", Image.fromarray(np.array([[-5, 70000]], np.int32)))
    assert refused(item) == (
        "image has gray values from -5 to 70000, outside 0 to 65535; "
        f"save it with 8 or 16 bits: {item.image}"
    )


def test_a_mode_without_rgb_is_refused(tmp_path):
    item = saved(tmp_path, "a.tif", Image.new("LAB", (4, 4)))
    assert refused(item) == f"image has color mode LAB; save it as RGB: {item.image}"


def test_threads_leave_filters_and_limits_as_they_were(tmp_path):
    item = saved(tmp_path, "a.png", Image.fromarray(SMOOTH))
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    threads = [
        threading.Thread(target=lambda: [load_image(item) for _ in range(30)]) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == filters
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_shape_of_a_broken_header_is_refused():
    with pytest.raises(DataError, match="mask is not a JPEG, PNG, TIFF, BMP or WebP file"):
        decoded_shape(b"\x89PNG", "mask", "m.png")
