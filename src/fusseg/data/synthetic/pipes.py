"""Binary scenes shaped like pipe inspection: a pipe in front of an industrial surface."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fusseg.data.synthetic import backgrounds
from fusseg.data.synthetic.camera import Camera, photograph
from fusseg.data.synthetic.textures import Color, blend, noise, paint, vary

CLASS_NAMES = ("background", "pipe")
COLORS = ((70, 70, 70), (0, 170, 220))

Background = Callable[[np.random.Generator, tuple[int, int]], Float32[np.ndarray, "height width 3"]]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one site looks like."""

    background: Background
    pipe_colors: tuple[Color, ...]
    angles: tuple[float, float]
    """Range of the pipe's direction, in degrees from the horizontal."""
    light: Color
    ambient: float
    """Share of the light that comes from all directions."""
    gloss: float
    """Strength of the highlight."""
    camera: Camera


LOOKS: dict[str, Look] = {
    "yard": Look(
        background=backgrounds.gravel,
        pipe_colors=((0.62, 0.60, 0.56), (0.72, 0.60, 0.26), (0.40, 0.45, 0.42)),
        angles=(-35.0, 35.0),
        light=(1.15, 1.08, 0.95),
        ambient=0.35,
        gloss=0.25,
        camera=Camera(noise=0.010, contrast=1.1, white_balance=(1.04, 1.0, 0.94)),
    ),
    "hall": Look(
        background=backgrounds.grid_floor,
        pipe_colors=((0.30, 0.42, 0.58), (0.60, 0.62, 0.62), (0.75, 0.62, 0.25)),
        angles=(20.0, 160.0),
        light=(0.95, 1.05, 1.00),
        ambient=0.5,
        gloss=0.4,
        camera=Camera(
            noise=0.015, blur=0.8, vignette=0.25, white_balance=(0.92, 1.04, 0.98), contrast=0.9
        ),
    ),
    "tunnel": Look(
        background=backgrounds.brick_wall,
        pipe_colors=((0.52, 0.38, 0.30), (0.50, 0.50, 0.48), (0.34, 0.46, 0.36)),
        angles=(-90.0, 90.0),
        light=(1.10, 0.95, 0.72),
        ambient=0.3,
        gloss=0.15,
        camera=Camera(noise=0.018, vignette=0.5, exposure=1.2),
    ),
    "tank": Look(
        background=backgrounds.rusty_plate,
        pipe_colors=((0.68, 0.70, 0.70), (0.60, 0.34, 0.26), (0.42, 0.48, 0.52)),
        angles=(50.0, 130.0),
        light=(1.0, 1.0, 1.05),
        ambient=0.45,
        gloss=0.3,
        camera=Camera(noise=0.012, contrast=0.8, exposure=1.12, jpeg_quality=35),
    ),
}


@dataclass(frozen=True)
class _Pipe:
    """Where the pipe runs, per pixel."""

    across: Float32[np.ndarray, "height width"]
    """Position across the pipe: -1 and 1 are its edges."""
    along: Float32[np.ndarray, "height width"]
    """Position along the pipe, in heights of the image."""
    flange: Bool[np.ndarray, "height width"]
    """Whether the pixel lies between the two ends of a joint."""
    softness: float
    """Pixels from the center line to the edge; the width of the edge follows from it."""


def draw(
    site: str, generator: np.random.Generator, shape: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
    """Draw a pipe at one of the sites, and its mask (1 on the pipe)."""
    look = LOOKS[site]
    surface = look.background(generator, shape)
    pipe = _lay(generator, shape, look)
    light_angle = generator.uniform(-1.0, 1.0)
    image = surface * _shadow(pipe, light_angle)[:, :, None] * np.array(look.light, np.float32)
    cover = ((1 - np.abs(pipe.across)) * pipe.softness + 0.5).clip(0, 1).astype(np.float32)
    image = blend(image, _shade(generator, pipe, look, light_angle), cover)
    mask = (np.abs(pipe.across) < 1).astype(np.uint8)
    if generator.random() < 0.4:
        hidden = _heap(generator, shape) if generator.random() < 0.5 else _beam(generator, shape)
        image = np.where(
            hidden[:, :, None], surface[::-1, ::-1] * np.array(look.light, np.float32), image
        )
        mask[hidden] = 0
    return photograph(image.astype(np.float32), look.camera, generator), mask


def _lay(generator: np.random.Generator, shape: tuple[int, int], look: Look) -> _Pipe:
    """Choose direction, bend, taper and width of the pipe, and the places of its joints."""
    height, width = shape
    rows = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / height
    columns = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / height
    angle = math.radians(generator.uniform(*look.angles))
    along = columns * math.cos(angle) + rows * math.sin(angle)
    side = rows * math.cos(angle) - columns * math.sin(angle)
    bend = generator.uniform(-0.4, 0.4) if generator.random() < 0.6 else 0.0
    center = generator.uniform(-0.15, 0.15) + bend * along**2
    slant = np.sqrt(1 + (2 * bend * along) ** 2)
    across = (side - center) / slant / (1 + generator.uniform(-0.3, 0.3) * along)
    radius = float(np.quantile(np.abs(across[::4, ::4]), generator.uniform(0.28, 0.46)))
    across = across / radius
    first, spacing = generator.uniform(-0.3, 0.3), generator.uniform(0.7, 1.2)
    flange = np.abs((along - first + spacing / 2) % spacing - spacing / 2) < 0.035
    across = np.where(flange, across / 1.1, across)
    return _Pipe(across.astype(np.float32), along.astype(np.float32), flange, radius * height)


def _shade(
    generator: np.random.Generator, pipe: _Pipe, look: Look, light_angle: float
) -> Float32[np.ndarray, "height width 3"]:
    """Light a smooth cylinder: Lambert's law and a highlight halfway to the camera."""
    across = pipe.across.clip(-1, 1)
    up = np.sqrt(1 - across**2)
    diffuse = (across * math.sin(light_angle) + up * math.cos(light_angle)).clip(0, 1)
    halfway = (across * math.sin(light_angle / 2) + up * math.cos(light_angle / 2)).clip(0, 1)
    shade = look.ambient + (1.1 - look.ambient) * diffuse
    shade *= 1 + 0.05 * noise(generator, across.shape, 90.0) - np.float32(0.22) * pipe.flange
    color = look.pipe_colors[generator.integers(len(look.pipe_colors))]
    body = paint(shade.astype(np.float32), vary(generator, color, 0.15))
    if generator.random() < 0.35:
        ring = np.abs(pipe.along - generator.uniform(-0.4, 0.4)) < generator.uniform(0.03, 0.08)
        stripe = paint(shade.astype(np.float32), vary(generator, (0.75, 0.72, 0.66), 0.25))
        body = np.where(ring[:, :, None], stripe, body)
    glint = look.gloss * halfway ** generator.uniform(12, 40)
    return np.asarray(
        ((body + glint[:, :, None]) * np.array(look.light, np.float32)).astype(np.float32)
    )


def _shadow(pipe: _Pipe, light_angle: float) -> Float32[np.ndarray, "height width"]:
    """Darken what lies beside the pipe, away from the light."""
    distance = np.abs(pipe.across + 0.5 * math.sin(light_angle)) - 1
    return (1 - 0.6 * (1 - distance / 0.35).clip(0, 1)).astype(np.float32)


def _heap(
    generator: np.random.Generator, shape: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Cover one edge of the image up to a ragged line."""
    depth = generator.uniform(0.12, 0.28) * shape[0]
    reach = depth + 6 * noise(generator, shape, 30.0, octaves=3)
    rows = np.arange(shape[0])[:, None]
    return np.asarray(rows > shape[0] - reach if generator.random() < 0.7 else rows < reach)


def _beam(
    generator: np.random.Generator, shape: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Cover a straight band across the image."""
    rows = np.arange(shape[0])[:, None] - shape[0] / 2
    columns = np.arange(shape[1])[None, :] - shape[1] / 2
    angle = generator.uniform(0, math.pi)
    offset = generator.uniform(-0.3, 0.3) * shape[0]
    distance = rows * math.cos(angle) + columns * math.sin(angle) - offset
    return np.asarray(np.abs(distance) < generator.uniform(0.05, 0.09) * shape[0])
