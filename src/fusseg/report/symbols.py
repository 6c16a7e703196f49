"""Marks that tell series apart by shape as well as by color."""

from fusseg.report.svg import NUM_SERIES

SHAPES = (
    "M-8 0A8 8 0 1 0 8 0A8 8 0 1 0 -8 0Z",
    "M-7 -7H7V7H-7Z",
    "M0 -9L9 7H-9Z",
    "M0 -10L10 0L0 10L-10 0Z",
    "M-3 -9H3V-3H9V3H3V9H-3V3H-9V-3H-3Z",
    "M0 9L9 -7H-9Z",
)
"""Circle, square, triangle, diamond, plus, triangle on its tip: as SVG paths around the origin."""
MARKERS = ("o", "s", "^", "D", "P", "v")
"""The same shapes as matplotlib calls them."""


def series_mark(number: int) -> tuple[int, int]:
    """Choose shape and color of a series, counted from 0: both as numbers from 0.

    Beyond the colors, the shapes shift against them: the first 36 marks all differ.
    """
    return (number + number // NUM_SERIES) % len(SHAPES), number % NUM_SERIES
