import io
import logging
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.decoding import decode_raster, decoded_shape
from fusseg.data.images import DEFAULT, Decoding, to_rgb

IGNORING = Decoding(alpha_channel="ignore")
ROWS, COLUMNS = 21, 34


def ramp(bands, kind=np.uint16):
    """Values that differ from place to place and from band to band, up to the type's maximum."""
    most = np.iinfo(kind).max
    steps = np.add.outer(np.arange(ROWS) * 1301, np.arange(COLUMNS) * 977)
    return (steps[:, :, None] * np.arange(1, bands + 1) % (most + 1)).astype(kind)


def to_8_bits(values):
    if values.dtype == np.uint8:
        return values
    return np.floor(values / 65535 * 255 + 0.5).astype(np.uint8)


def written(values, **options):
    buffer = io.BytesIO()
    if options.get("planarconfig") == "separate":
        values = values.transpose(2, 0, 1)
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def seen(data, decoding=IGNORING):
    shown = to_rgb(decode_raster(data, "a.tif"), decoding)
    assert decoded_shape(data, "image", "a.tif") == shown.shape[:2]
    return shown


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [3, 4, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(
    "packed", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}]
)
def test_rgb_is_read_in_every_layout(kind, bands, planar, order, big, tile, packed):
    values = ramp(bands, kind)
    data = written(
        values,
        photometric="rgb",
        planarconfig=planar,
        byteorder=order,
        bigtiff=big,
        tile=tile,
        rowsperstrip=None if tile else 8,
        extrasamples=["unspecified"] * (bands - 3),
        **packed,
    )
    np.testing.assert_array_equal(seen(data), to_8_bits(values[:, :, :3]))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [3, 4])
def test_bands_called_gray_are_rgb_as_gdal_writes_it(kind, planar, bands):
    values = ramp(bands, kind)
    data = written(
        values,
        photometric="minisblack",
        planarconfig=planar,
        extrasamples=["unspecified"] * (bands - 1),
    )
    np.testing.assert_array_equal(seen(data), to_8_bits(values[:, :, :3]))


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_what_tifffile_cannot_expand_alone_is_read(monkeypatch, compression, planar):
    """LZW and PackBits of 16-bit RGB; written by way of a row of bytes, which Pillow can write."""

    def packed(part, **_):
        row = np.ascontiguousarray(part).tobytes()
        buffer = io.BytesIO()
        Image.frombytes("L", (len(row), 1), row).save(buffer, "TIFF", compression=compression)
        page = tifffile.TiffFile(io.BytesIO(buffer.getvalue())).pages.first
        (start,), (length,) = page.dataoffsets, page.databytecounts
        return buffer.getvalue()[start : start + length]

    code = {"tiff_lzw": 5, "packbits": 32773}[compression]
    monkeypatch.setitem(tifffile.TIFF.COMPRESSORS._codecs, code, packed)
    values = ramp(3)
    data = written(values, photometric="rgb", planarconfig=planar, compression=code, rowsperstrip=8)
    np.testing.assert_array_equal(seen(data), to_8_bits(values))


@pytest.mark.parametrize("order", ["<", ">"])
def test_gray_whose_zero_is_white_is_turned_around(order):
    values = np.array([[[0], [257 * 100], [65535]]], np.uint16)
    data = written(values[:, :, 0], photometric="miniswhite", byteorder=order)
    assert seen(data)[0].tolist() == [[255] * 3, [155] * 3, [0] * 3]
    # white at 0, black at 4095
    twelve = Decoding(white_levels=(4095,) * 4)
    data = written(np.array([[0, 4095, 65535]], np.uint16), photometric="miniswhite")
    assert seen(data, twelve)[0, :, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_transparency_shows_white_and_may_be_ignored(kind):
    most = int(np.iinfo(kind).max)
    # Pixels of a fifth of the range: opaque, clear, and one fifth opaque.
    stored = [[[most // 5] * 3 + [most], [most // 5] * 3 + [0], [most // 5] * 3 + [most // 5]]]
    data = written(np.array(stored, kind), photometric="rgb", extrasamples=["unassalpha"])
    assert seen(data)[0, :, 0].tolist() == [51, 51, 51]
    # 0.2 * 51 + 0.8 * 255
    assert seen(data, DEFAULT)[0, :, 0].tolist() == [51, 255, 214]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_colors_with_transparency_multiplied_in_are_not_multiplied_again(kind):
    most = int(np.iinfo(kind).max)
    stored = [[[most // 5] * 3 + [most], [most // 5] * 3 + [2 * (most // 5)]]]
    data = written(np.array(stored, kind), photometric="rgb", extrasamples=["assocalpha"])
    # What is stored counts where transparency does not.
    assert seen(data)[0, :, 0].tolist() == [51, 51]
    # 51 + 0.6 * 255, up to the rounding of 8 bits
    shown = seen(data, DEFAULT)[0, :, 0].astype(int)
    assert np.abs(shown - [51, 204]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_rgb_is_turned_upright(orientation):
    upright = ramp(3)
    rows_first = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    data = written(
        np.ascontiguousarray(rows_first),
        photometric="rgb",
        extratags=[(274, 3, 1, orientation, True)],
    )
    np.testing.assert_array_equal(seen(data), to_8_bits(upright))


def test_the_first_page_counts():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for value in (257 * 10, 257 * 200):
            file.write(np.full((4, 4, 3), value, np.uint16), photometric="rgb")
    assert seen(buffer.getvalue())[0, 0].tolist() == [10, 10, 10]


def test_parts_that_are_left_out_are_black():
    """GDAL leaves out tiles that hold nothing but zeros."""
    data = bytearray(
        written(ramp(3) + 1, photometric="rgb", tile=(16, 16), compression="zlib", metadata=None)
    )
    page = tifffile.TiffFile(io.BytesIO(bytes(data))).pages.first
    counts = page.tags["TileByteCounts"]
    kind = {3: "<u2", 4: "<u4"}[int(counts.dtype)]
    np.frombuffer(data, kind, counts.count, counts.valueoffset)[0] = 0
    shown = seen(bytes(data))
    assert not shown[:16, :16].any()
    assert shown[16:, :].any()


@pytest.mark.parametrize(
    ("values", "options", "layout"),
    [
        (ramp(2), {"photometric": "minisblack"}, "2 bands of 16 bits are not read"),
        (ramp(7, np.uint8), {"photometric": "minisblack"}, "7 bands of 8 bits are not read"),
        (ramp(3).astype(np.uint32), {"photometric": "rgb"}, "3 bands of 32 bits are not read"),
        (
            ramp(3).astype(np.float32),
            {"photometric": "rgb"},
            "3 bands of 32 bits (floating point) are not read",
        ),
        (
            ramp(1)[:, :, 0].astype(np.float64),
            {"photometric": "minisblack"},
            "1 band of 64 bits (floating point) is not read",
        ),
        (
            ramp(3).astype(np.int16),
            {"photometric": "rgb"},
            "3 bands of 16 bits (signed) are not read",
        ),
    ],
)
def test_other_layouts_are_refused_by_their_bands_and_bits(values, options, layout):
    with pytest.raises(DataError) as caught:
        decode_raster(written(values, planarconfig="contig", **options), "a.tif")
    assert str(caught.value) == f"image: {layout}; save it as 8-bit RGB: a.tif"


def test_another_compression_is_named():
    data = bytearray(written(ramp(3), photometric="rgb"))
    tag = tifffile.TiffFile(io.BytesIO(bytes(data))).pages.first.tags["Compression"]
    data[tag.valueoffset : tag.valueoffset + 2] = (34712).to_bytes(2, "little")
    with pytest.raises(DataError, match="compression JPEG2000 of 3 bands of 16 bits is not read"):
        decode_raster(bytes(data), "a.tif")


def test_a_part_cannot_expand_beyond_its_size():
    """A strip of 714 bytes that holds 100 MB once it is expanded."""
    values = np.zeros((7, 17, 3), np.uint16)
    data = written(values, photometric="rgb", compression="zlib", rowsperstrip=7)
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    import zlib

    bomb = zlib.compress(bytes(100_000_000))
    changed = bytearray(data + bomb)
    for name, value in (("StripOffsets", len(data)), ("StripByteCounts", len(bomb))):
        tag = page.tags[name]
        size = {3: 2, 4: 4}[int(tag.dtype)]
        changed[tag.valueoffset : tag.valueoffset + size] = value.to_bytes(size, "little")
    assert not seen(bytes(changed)).any()


def test_a_page_with_too_many_pixels_is_refused_by_its_header():
    data = bytearray(written(ramp(3), photometric="rgb", planarconfig="separate"))
    page = tifffile.TiffFile(io.BytesIO(bytes(data))).pages.first
    for name in ("ImageWidth", "ImageLength"):
        tag = page.tags[name]
        size = {3: 2, 4: 4}[int(tag.dtype)]
        data[tag.valueoffset : tag.valueoffset + size] = (20001).to_bytes(size, "little")
    with pytest.raises(DataError, match="20001 x 20001 pixels, more than 200000000"):
        decode_raster(bytes(data), "a.tif")


@pytest.mark.parametrize("packed", [{}, {"compression": "zlib"}])
def test_a_truncated_file_is_broken(packed):
    values = np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    data = written(values, photometric="rgb", **packed)
    with pytest.raises(DataError, match=r"image is broken .*: a\.tif"):
        decode_raster(data[: len(data) // 2], "a.tif")


def test_tifffile_logs_nothing_and_may_log_again_afterwards():
    log = logging.getLogger("tifffile")
    with pytest.raises(DataError):
        decode_raster(b"II*\0\x08\0\0\0", "a.tif")
    assert not log.disabled


_DAMAGED = """
import io, sys, numpy as np
from PIL import Image
from fusseg.data.decoding import decode
from fusseg.core.errors import DataError
buffer = io.BytesIO()
pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw")
data = bytearray(buffer.getvalue())
data[100:2000] = bytes(1900)
try:
    decode(bytes(data), "image", "a.tif")
except DataError as error:
    print(error)
"""


def test_libtiff_writes_no_line_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", _DAMAGED], capture_output=True, text=True, check=True
    )
    assert "image is broken" in done.stdout
    assert "a.tif" in done.stdout
    assert done.stderr == ""
