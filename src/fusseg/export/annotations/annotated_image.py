"""Dividing the labeled regions of an image into annotations."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from fusseg.core.errors import ConfigError
from fusseg.export.annotations.outlines import Outlines, Part, list_parts, trace_outlines
from fusseg.export.annotations.polygons import simplify
from fusseg.runs.regions import Color

Shapes = Literal["polygons", "rle"]
Instances = Literal["components", "region"]


@dataclass(frozen=True)
class Label:
    """Name and color of a region."""

    name: str
    color: Color
    """RGB in [0, 255]."""


@dataclass(frozen=True)
class LabeledImage:
    """An image and the regions in it."""

    name: str
    """Path of the image relative to the folder of images, with slashes."""
    regions: UInt8[np.ndarray, "height width"]
    """Index into the list of labels of each pixel."""


@dataclass(frozen=True)
class AnnotationOptions:
    """How regions are turned into annotations."""

    shapes: Shapes = "polygons"
    instances: Instances = "components"
    tolerance: float = 1.0
    """Largest distance between a polygon and the border of its region, in pixels."""
    min_area: int = 25
    """Smallest area of a component and of a hole, in pixels."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < np.inf:
            raise ConfigError(f"tolerance must be at least 0 pixels, got {self.tolerance}")
        if self.min_area < 0:
            raise ConfigError(f"min-area must be at least 0 pixels, got {self.min_area}")


@dataclass(frozen=True)
class Annotation:
    """One object: a connected component, or a whole region."""

    label: int
    """Index into the list of labels."""
    parts: tuple[Part, ...]

    @property
    def area(self) -> int:
        """Number of its pixels."""
        return sum(part.area for part in self.parts)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its annotations and their outlines."""

    name: str
    outlines: Outlines
    """Outlines of all regions, simplified if polygons are written."""
    annotations: tuple[Annotation, ...]
    num_small: int
    """Number of components that were left out because they are too small."""

    @property
    def height(self) -> int:
        """Height of the image, in pixels."""
        return self.outlines.shape[0]

    @property
    def width(self) -> int:
        """Width of the image, in pixels."""
        return self.outlines.shape[1]


@dataclass(frozen=True)
class NotWritten:
    """An image for which no file could be written, and the reason."""

    name: str
    reason: str


def annotate_image(image: LabeledImage, options: AnnotationOptions) -> AnnotatedImage:
    """Divide an image's regions into annotations, the largest first.

    Raises:
        DataError: If the borders of the regions are too long for the memory.
    """
    outlines = trace_outlines(image.regions)
    parts = tuple(list_parts(outlines, options.min_area))
    if options.shapes == "polygons":
        outlines = simplify(outlines, options.tolerance)
    if options.instances == "components":
        annotations = [Annotation(part.region, (part,)) for part in parts]
    else:
        groups: defaultdict[int, list[Part]] = defaultdict(list)
        for part in parts:
            groups[part.region].append(part)
        annotations = [Annotation(label, tuple(group)) for label, group in groups.items()]
    annotations.sort(key=lambda annotation: -annotation.area)
    num_small = int((outlines.areas > 0).sum()) - len(parts)
    return AnnotatedImage(image.name, outlines, tuple(annotations), num_small)
