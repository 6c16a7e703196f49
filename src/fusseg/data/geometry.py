"""Where the pixels of an image go when it is brought to one size; shared by images and masks."""

from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["crop", "stretch"]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the source; fractions count."""
Share = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of width and height, in [0, 1]."""


def source_box(shape: tuple[int, int], size: tuple[int, int], fit: Fit) -> Box:
    """Find the part of an image that fills the new size.

    Args:
        shape: Height and width of the image.
        size: Height and width asked for.
        fit: `crop`: the largest centered part with the new aspect ratio, as after scaling the
            shorter side to size and cutting off the rest evenly; `stretch`: all of it.
    """
    height, width = shape
    if fit == "stretch":
        return 0.0, 0.0, float(width), float(height)
    # multiplied out, so that equal sizes give exactly the whole image
    kept_height = min(float(height), size[0] * width / size[1])
    kept_width = min(float(width), size[1] * height / size[0])
    top, left = (height - kept_height) / 2, (width - kept_width) / 2
    return left, top, left + kept_width, top + kept_height


def resample(
    pixels: np.ndarray, size: tuple[int, int], fit: Fit, filter_: Image.Resampling
) -> np.ndarray:
    """Bring 8-bit pixels to a size; antialiased by every filter but the nearest."""
    box = source_box((pixels.shape[0], pixels.shape[1]), size, fit)
    fitted = Image.fromarray(pixels).resize((size[1], size[0]), filter_, box=box)
    return np.array(fitted)


def shared_shape(shape: tuple[int, int], share: Share) -> tuple[int, int]:
    """Height and width in whole pixels of a part of an image, rounded down, at least 1."""
    left, top, right, bottom = share
    return max(1, int((bottom - top) * shape[0])), max(1, int((right - left) * shape[1]))


def cut(pixels: np.ndarray, share: Share) -> np.ndarray:
    """Cut a part out of an image or mask; parts at an edge reach it, centered ones are centered.

    The size is rounded first and the place after it, so that parts of one share have one size
    wherever they lie.
    """
    height, width = shared_shape((pixels.shape[0], pixels.shape[1]), share)
    left = _offset(share[0], share[2], pixels.shape[1] - width)
    top = _offset(share[1], share[3], pixels.shape[0] - height)
    return pixels[top : top + height, left : left + width]


def _offset(low: float, high: float, free: int) -> int:
    """Pixels before a part, by its share of what the part leaves free."""
    uncovered = 1 - (high - low)
    return round(free * low / uncovered) if uncovered > 0 else 0
