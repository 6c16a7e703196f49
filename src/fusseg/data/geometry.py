"""Geometry of resizing and cropping, the same for images and masks."""

from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["crop", "stretch"]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the source; not rounded."""
Share = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the width and the height, in [0, 1]."""


def source_box(shape: tuple[int, int], size: tuple[int, int], fit: Fit) -> Box:
    """Find the part of an image that fills the new size.

    Args:
        shape: Height and width of the image.
        size: New height and width.
        fit: `crop`: the largest centered part with the new aspect ratio, as after scaling the
            shorter side to size and cutting off the rest evenly; `stretch`: all of it.

    Examples:
        >>> source_box((100, 200), (50, 50), "crop")
        (50.0, 0.0, 150.0, 100.0)
        >>> source_box((100, 200), (50, 50), "stretch")
        (0.0, 0.0, 200.0, 100.0)
    """
    height, width = shape
    if fit == "stretch":
        return 0.0, 0.0, float(width), float(height)
    # In this order of operations, equal sizes give exactly the whole image.
    kept_height = min(float(height), size[0] * width / size[1])
    kept_width = min(float(width), size[1] * height / size[0])
    top, left = (height - kept_height) / 2, (width - kept_width) / 2
    return left, top, left + kept_width, top + kept_height


def resample(
    pixels: np.ndarray, size: tuple[int, int], fit: Fit, filter_: Image.Resampling
) -> np.ndarray:
    """Resize 8-bit pixels; every filter but the nearest is antialiased."""
    box = source_box((pixels.shape[0], pixels.shape[1]), size, fit)
    fitted = Image.fromarray(pixels).resize((size[1], size[0]), filter_, box=box)
    return np.array(fitted)


def shared_shape(shape: tuple[int, int], share: Share) -> tuple[int, int]:
    """Return height and width in pixels of a part of an image, rounded down, at least 1.

    Examples:
        >>> shared_shape((101, 200), (0.0, 0.5, 0.5, 1.0))
        (50, 100)
    """
    left, top, right, bottom = share
    return max(1, int((bottom - top) * shape[0])), max(1, int((right - left) * shape[1]))


def cut(pixels: np.ndarray, share: Share) -> np.ndarray:
    """Cut a part out of an image or mask; parts at an edge reach it, centered parts are centered.

    The size is rounded before the position, so that parts of equal shares have the same size
    wherever they lie.

    Examples:
        >>> cut(np.arange(5)[None], (0.5, 0.0, 1.0, 1.0)).tolist()
        [[3, 4]]
    """
    height, width = shared_shape((pixels.shape[0], pixels.shape[1]), share)
    left = _offset(share[0], share[2], pixels.shape[1] - width)
    top = _offset(share[1], share[3], pixels.shape[0] - height)
    return pixels[top : top + height, left : left + width]


def _offset(low: float, high: float, free: int) -> int:
    """Find the number of pixels before a part: its share of the pixels that are not covered."""
    uncovered = 1 - (high - low)
    return round(free * low / uncovered) if uncovered > 0 else 0
