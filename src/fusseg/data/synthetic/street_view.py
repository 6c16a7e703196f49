"""Geometry and look of one street, and the canvas it is painted on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fusseg.data.synthetic.camera import Camera
from fusseg.data.synthetic.textures import Color

SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, POLE = range(7)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one site looks like."""

    zenith: Color
    horizon: Color
    clouds: float
    """Share of the sky under clouds."""
    plaster: tuple[Color, ...]
    """Colors of the facades."""
    storeys: tuple[float, float]
    """Range of the height of buildings, in meters."""
    lit_windows: float
    """Share of the windows with a light inside."""
    asphalt: Color
    slabs: Color
    """Color of the pavement."""
    leaves: Color
    road: tuple[float, float]
    """Range of half the width of the road, in meters."""
    trees: float
    """Trees per 10 meters and side."""
    cars: float
    """Cars per 10 meters and lane."""
    sun: tuple[float, float, float]
    """Light on the left facades, on the right facades and on the ground."""
    fog: float
    """Meters after which two thirds of the light are lost."""
    camera: Camera


@dataclass(frozen=True, kw_only=True)
class Street:
    """A straight street and the camera in it; lengths in meters, image positions in pixels."""

    horizon: float
    """Row of the horizon."""
    vanishing: float
    """Column of the vanishing point."""
    focal: float
    """Focal length in pixels."""
    eye: float
    """Height of the camera."""
    offset: float
    """Distance of the camera to the right of the middle of the road."""
    half_road: float
    wall: float
    """Distance of the facades from the middle of the road."""
    end: float
    """Distance at which the street ends."""


@dataclass(frozen=True)
class Canvas:
    """Image and mask that are painted over from far to near."""

    image: Float32[np.ndarray, "height width 3"]
    mask: UInt8[np.ndarray, "height width"]

    def cover(
        self,
        where: Bool[np.ndarray, "height width"],
        light: Float32[np.ndarray, "height width 3"],
        label: int,
    ) -> None:
        """Paint some pixels of the whole canvas."""
        np.copyto(self.image, light, where=where[:, :, None])
        self.mask[where] = label

    def part(self, rows: slice, columns: slice) -> "Canvas":
        """Return a view of a rectangle; painting on it paints on the whole canvas."""
        return Canvas(self.image[rows, columns], self.mask[rows, columns])


def haze(
    light: Float32[np.ndarray, "height width 3"],
    distance: Float32[np.ndarray, "*size"] | float,
    look: Look,
) -> Float32[np.ndarray, "height width 3"]:
    """Fade light into the color of the horizon with the distance."""
    kept = np.exp(-np.asarray(distance, np.float32) / np.float32(look.fog))[..., None]
    air = np.array(look.horizon, np.float32)
    return np.asarray(air + (light - air) * kept, np.float32)
