"""The segmentation of an image: the region of each pixel, and the share of each region."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from fusseg.prediction.strips import Assigned
from fusseg.prediction.viewing import Viewing
from fusseg.runs.regions import Color, Region, Regions


@dataclass(frozen=True)
class Area:
    """One region of an image, with its size and confidence."""

    region: Region
    pixels: int
    """Number of its pixels."""
    share: float
    """Share of the image's pixels, in [0, 1]."""
    confidence: float | None
    """Mean margin of its pixels: the cosine of a pixel's code with its own region minus that with
    the next region. None if there is no pixel, or no other region."""


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of an image into regions.

    >>> from fusseg.prediction.tiling import Tiling
    >>> from fusseg.runs.regions import Region
    >>> road = Region(0, "road", (128, 64, 128), (0,))
    >>> sky = Region(1, "sky", (70, 130, 180), (1, 2))
    >>> pixels = np.array([[1, 1], [1, 0]], np.uint8)
    >>> areas = (Area(road, 1, 0.25, 0.3), Area(sky, 3, 0.75, 0.4))
    >>> found = Segmentation(pixels, areas, Viewing((2, 2), Tiling((2, 2), (2, 2))))
    >>> found.names
    {0: 'road', 1: 'sky'}
    >>> found.shares
    {0: 0.25, 1: 0.75}
    """

    regions: UInt8[np.ndarray, "height width"]
    """Index of the region of each pixel."""
    areas: tuple[Area, ...]
    """Every region of the model, in the order of the indices."""
    seen: Viewing
    """How the backbone saw the image."""

    @property
    def names(self) -> dict[int, str]:
        """Name of each region, by index."""
        return {area.region.index: area.region.name for area in self.areas}

    @property
    def colors(self) -> dict[int, Color]:
        """RGB of each region, by index."""
        return {area.region.index: area.region.color for area in self.areas}

    @property
    def shares(self) -> dict[int, float]:
        """Share of the image's pixels of each region, by index."""
        return {area.region.index: area.share for area in self.areas}

    @property
    def confidence(self) -> dict[int, float | None]:
        """Confidence of each region, by index."""
        return {area.region.index: area.confidence for area in self.areas}


def describe_areas(assigned: Assigned, regions: Regions, view: Viewing) -> Segmentation:
    """Compute the size and confidence of each region of an image."""
    total = int(assigned.pixels.sum())
    areas = []
    for region in regions.regions:
        pixels = int(assigned.pixels[region.index])
        clear = pixels > 0 and len(regions.regions) > 1
        confidence = float(assigned.margins[region.index]) / pixels if clear else None
        areas.append(Area(region, pixels, pixels / total, confidence))
    return Segmentation(assigned.regions, tuple(areas), view)
