"""An image cut into regions: which pixel is which, how much of it each is, and how clearly."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from fusseg.prediction.strips import Assigned
from fusseg.prediction.viewing import Viewing
from fusseg.runs.regions import Color, Region, Regions


@dataclass(frozen=True)
class Area:
    """One region of an image: what it is, how much of the image, how clearly."""

    region: Region
    pixels: int
    share: float
    """Of the image's pixels, in [0, 1]."""
    confidence: float | None
    """Mean over its pixels of the margin: how much nearer, in cosine, the code at their position is
    to its own region than to the next one. None: no pixel, or no other region."""


@dataclass(frozen=True)
class Segmentation:
    """An image cut into regions."""

    regions: UInt8[np.ndarray, "height width"]
    """Index of the region of each pixel."""
    areas: tuple[Area, ...]
    """Every region of the model, in the order of their indices."""
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
    """Say how much of the image each region is, and how clearly."""
    total = int(assigned.pixels.sum())
    areas = []
    for region in regions.regions:
        pixels = int(assigned.pixels[region.index])
        clear = pixels > 0 and len(regions.regions) > 1
        confidence = float(assigned.margins[region.index]) / pixels if clear else None
        areas.append(Area(region, pixels, pixels / total, confidence))
    return Segmentation(assigned.regions, tuple(areas), view)
