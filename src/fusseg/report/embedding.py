"""Encode images as data URIs, to embed them in a page."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

MAX_WIDTH = 480
"""Largest width in pixels; wider images are scaled down before they are embedded."""


def shrink_photo(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Scale a photo down to its embedded size."""
    return _at_most(image, Image.Resampling.LANCZOS)


def shrink_regions(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Scale a color map down to its embedded size, without introducing new colors."""
    return _at_most(image, Image.Resampling.NEAREST)


def photo_uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """Encode a photo as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(shrink_photo(image)).save(buffer, "JPEG", quality=85, optimize=True)
    return _data_uri("image/jpeg", buffer)


def regions_uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """Encode a color map as lossless PNG, or as a photo if it has more than 256 colors."""
    small = shrink_regions(image)
    packed = small.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    values, indices = np.unique(packed, return_inverse=True)
    if len(values) > 256:
        return photo_uri(image)
    colors = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.uint8)
    indexed = Image.fromarray(indices.reshape(small.shape[:2]).astype(np.uint8), "L")
    indexed.putpalette(colors.tobytes())
    buffer = io.BytesIO()
    indexed.save(buffer, "PNG", optimize=True)
    return _data_uri("image/png", buffer)


def _at_most(
    image: UInt8[np.ndarray, "height width 3"], resampling: Image.Resampling
) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width, _ = image.shape
    if width <= MAX_WIDTH:
        return image
    small = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
    return np.asarray(Image.fromarray(image).resize(small, resampling))


def _data_uri(media_type: str, buffer: io.BytesIO) -> str:
    return f"data:{media_type};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
