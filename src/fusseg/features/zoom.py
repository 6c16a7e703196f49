"""The zoomed view of an image: its center, enlarged to the size of the whole."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from fusseg.config.schema import Interpolation
from fusseg.data.images import fit_image

ZOOM = 1.5
"""How many times larger the zoomed view shows the center of an image."""


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


def _central(side: int) -> slice:
    inner = max(1, round(side / ZOOM))
    first = (side - inner) // 2
    return slice(first, first + inner)


def _edges(part: slice) -> tuple[int, int]:
    return part.start, part.stop
