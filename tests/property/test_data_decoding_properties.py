import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.decoding import decode, decoded_shape
from fusseg.data.images import load_image
from fusseg.data.items import Item


def encoded(mode, kind, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, kind, **({} if kind == "BMP" else {"exif": exif}), **options)
    return buffer.getvalue()


def deep_tiff(**options):
    values = np.random.default_rng(0).integers(0, 65536, (12, 17, 3)).astype(np.uint16)
    buffer = io.BytesIO()
    stored = values.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else values
    tifffile.imwrite(buffer, stored, photometric="rgb", **options)
    return buffer.getvalue()


SAMPLES = [
    deep_tiff(),
    deep_tiff(compression="zlib", predictor=True, byteorder=">", tile=(16, 16)),
    deep_tiff(planarconfig="separate", bigtiff=True, rowsperstrip=5),
    encoded("RGB", "JPEG"),
    encoded("CMYK", "JPEG", progressive=True),
    encoded("RGBA", "PNG"),
    encoded("P", "PNG", transparency=3),
    encoded("I;16", "PNG"),
    encoded("RGB", "TIFF"),
    encoded("RGB", "TIFF", compression="tiff_lzw"),
    encoded("L", "TIFF", compression="tiff_deflate"),
    encoded("P", "BMP"),
    encoded("RGB", "BMP"),
    encoded("RGBA", "WEBP"),
]


@st.composite
def damaged(draw):
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(st.integers(1, len(data))) :]
    return bytes(data)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "image.bin"


@settings(max_examples=1500, deadline=None)
@given(damaged())
def test_damaged_files_give_an_image_or_a_data_error(path, data):
    """Warnings are errors in tests, so none may leak either."""
    path.write_bytes(data)
    try:
        image = load_image(Item("site", "image", "", path))
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert decoded_shape(data, "image", path) == image.shape[:2]


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_noise_is_a_data_error(data):
    with pytest.raises(DataError):
        decode(data, "image", "noise")
