"""Masks are read as they are stored, and refused where values may have changed."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.mask_files import is_images_folder, is_masks_folder, masks_by_stem, read_mask

VALUES = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 3, 3]], np.uint8)


def refused(path):
    with pytest.raises(DataError) as caught:
        read_mask(path)
    assert str(caught.value).endswith(f": {path}")
    return str(caught.value)


def write_gray_png(path, values, bits):
    """Write a gray PNG of 1, 2, 4 or 8 bits, whose rows begin at whole bytes."""
    height, width = values.shape
    rows = b""
    for row in values:
        number = "".join(f"{value:0{bits}b}" for value in row)
        number += "0" * (-len(number) % 8)
        rows += b"\0" + int(number, 2).to_bytes(len(number) // 8, "big")

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("bits", "values"),
    [
        (1, [[0, 1, 1], [1, 0, 0]]),
        (2, [[0, 1, 2, 3, 2], [3, 2, 1, 0, 0]]),
        (4, [[0, 1, 7, 8, 15], [15, 14, 3, 2, 0]]),
        (8, [[0, 1, 85, 17, 255], [254, 3, 34, 2, 0]]),
    ],
)
def test_gray_values_of_few_bits_are_read_as_stored(tmp_path, bits, values):
    path = tmp_path / "a.png"
    write_gray_png(path, np.array(values), bits)
    read = read_mask(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_any_number_of_bits_are_read_as_indices(tmp_path, bits):
    values = np.minimum(VALUES, 2**bits - 1).astype(np.uint8)
    image = Image.fromarray(values)
    image.putpalette([200, 9, 0, 0, 200, 9, 7, 7, 7, 30, 40, 50])
    image.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), values)


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiffs_without_loss_are_read(tmp_path, compression, palette):
    image = Image.fromarray(VALUES)
    if palette:
        image.putpalette([200, 9, 0, 0, 200, 9, 7, 7, 7, 30, 40, 50])
    image.save(tmp_path / "a.tif", "TIFF", compression=compression)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), VALUES)


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}])
def test_other_layouts_of_gray_tiffs_are_read(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="minisblack", **options)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), VALUES)


def test_a_tiff_compressed_as_jpeg_is_refused(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.tif", "TIFF", compression="jpeg")
    message = refused(tmp_path / "a.tif")
    assert "compressed with JPEG" in message
    assert "change the values" in message


def test_a_tiff_in_which_0_is_white_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="miniswhite")
    assert "0 is white" in refused(tmp_path / "a.tif")


def test_a_tiff_of_several_masks_is_refused_but_not_its_smaller_copies(tmp_path):
    with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
        file.write(VALUES, photometric="minisblack")
        file.write(VALUES, photometric="minisblack")
    assert "mask has 2 pages" in refused(tmp_path / "stack.tif")
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(VALUES, photometric="minisblack")
        file.write(VALUES[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_mask(tmp_path / "pyramid.tif"), VALUES)


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        (np.uint16, "more than 8 bits in a pixel (values 0 to 300)"),
        (np.int32, "more than 8 bits in a pixel (values 0 to 300)"),
        (np.float32, "floating-point pixels"),
    ],
)
def test_tiffs_of_more_bits_are_refused(tmp_path, dtype, what):
    values = (VALUES.astype(dtype) * 100).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    assert refused(tmp_path / "a.tif").startswith(f"mask has {what}; store the class index")


def test_a_broken_tiff_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0\xff\xff\xff\x7f")
    assert "broken TIFF" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("kind", "name"), [("JPEG", "a.jpg"), ("JPEG", "a.png"), ("WEBP", "a.png")]
)
def test_lossy_formats_are_refused_by_their_content(tmp_path, kind, name):
    buffer = io.BytesIO()
    Image.fromarray(VALUES).save(buffer, kind)
    (tmp_path / name).write_bytes(buffer.getvalue())
    message = refused(tmp_path / name).lower()
    assert message.startswith(f"mask is a {kind.lower()} file")
    assert "changes the values" in message


def test_a_jpeg_is_listed_only_where_nothing_better_is(tmp_path):
    for name in ("a.png", "a.jpg", "b.JPG", "c.tif", "d.TIFF", "e.bmp", ".f.png"):
        (tmp_path / name).touch()
    found = masks_by_stem(tmp_path)
    assert {stem: path.name for stem, path in found.items()} == {
        "a": "a.png",
        "b": "b.JPG",
        "c": "c.tif",
        "d": "d.TIFF",
    }
    assert masks_by_stem(tmp_path / "none") == {}


def test_two_masks_of_one_stem_are_an_error(tmp_path):
    for name in ("x.png", "x.tif"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"share the stem 'x', x\.png and x\.tif"):
        masks_by_stem(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("masks", "Labels", "annotations", "SegmentationClass", "SegmentationObject", "gtFine"),
        *("ground_truth", "GroundTruth", "trainannot", "train_masks", "val-labels", "my gt", "gt"),
    ],
)
def test_names_of_folders_of_masks(name):
    assert is_masks_folder(name)
    assert not is_images_folder(name)


@pytest.mark.parametrize(
    "name", ["images", "JPEGImages", "train", "wright", "yard", "labelled", "masking tape"]
)
def test_other_names(name):
    assert not is_masks_folder(name)
