"""The zoomed view of an image: its center, enlarged to the size of the whole.

Regions that depend on what is shown, and not on its size, are the same in both views.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from fusseg.config.schema import Interpolation
from fusseg.data.images import fit_image

ZOOM = 1.5
"""How many times larger the zoomed view shows the center of an image."""
_SHARE = 8
"""One of so many of a client's images is also seen zoomed."""
_MOST = 32


@dataclass(frozen=True)
class Window:
    """The rows and columns of a feature map that the zoomed view shows."""

    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in positions."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def central_window(height: int, width: int) -> Window:
    """Find the window in the center that is `ZOOM` times smaller than the map.

    >>> central_window(45, 60)
    Window(rows=slice(7, 37, None), columns=slice(10, 50, None))

    Args:
        height: Height of the feature map, in positions.
        width: Its width.
    """
    return Window(*(_central(side) for side in (height, width)))


def zoom_in(
    image: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int], interpolation: Interpolation
) -> UInt8[np.ndarray, "height width 3"]:
    """Cut out the central window of an image, and enlarge it to the size of the image.

    Args:
        image: RGB in [0, 255], as the backbone sees it.
        grid: Height and width of its feature map, in positions.
        interpolation: Resampling filter.
    """
    height, width = image.shape[:2]
    window = central_window(*grid)
    rows = slice(*(round(edge * height / grid[0]) for edge in _edges(window.rows)))
    columns = slice(*(round(edge * width / grid[1]) for edge in _edges(window.columns)))
    return fit_image(image[rows, columns], (height, width), "stretch", interpolation)


def pick_zoomed(num_images: int) -> list[int]:
    """Pick the images that are seen zoomed, too: one in eight, evenly spaced, at most 32.

    >>> pick_zoomed(20)
    [0, 9, 19]

    Args:
        num_images: Number of a client's images, at least 1.
    """
    count = min(-(-num_images // _SHARE), _MOST)
    return [place * (num_images - 1) // max(1, count - 1) for place in range(count)]


def _central(side: int) -> slice:
    inner = max(1, round(side / ZOOM))
    first = (side - inner) // 2
    return slice(first, first + inner)


def _edges(part: slice) -> tuple[int, int]:
    return part.start, part.stop
