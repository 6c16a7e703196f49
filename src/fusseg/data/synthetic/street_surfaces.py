"""Sky, ground and facades of a street."""

import numpy as np
from jaxtyping import Float32

from fusseg.data.synthetic.street_view import (
    BUILDING,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    Canvas,
    Look,
    Street,
    haze,
)
from fusseg.data.synthetic.textures import blend, noise, paint, tone, wrap

_SHEET = 128
"""Side of the noise sheet that materials are cut from, in samples; a power of two."""


def paint_sky(canvas: Canvas, street: Street, look: Look, generator: np.random.Generator) -> None:
    """Paint a gradient from the zenith to the horizon, with clouds."""
    shape = canvas.mask.shape
    rise = (1 - np.arange(shape[0], dtype=np.float32) / street.horizon).clip(0, 1)[:, None]
    gradient = np.broadcast_to(rise, shape).astype(np.float32)
    sky = blend(
        paint(np.ones(shape, np.float32), look.horizon),
        paint(np.ones(shape, np.float32), look.zenith),
        np.sqrt(gradient),
    )
    drift = noise(generator, shape, (45, 110), octaves=4)
    share = ((0.6 * drift + 2 * look.clouds - 1) * 0.9).clip(0, 0.85).astype(np.float32)
    white = 0.5 + 0.5 * np.array(look.horizon, np.float32)
    cloud = (0.96 + 0.05 * drift)[:, :, None] * white
    canvas.cover(np.ones(shape, bool), blend(sky, cloud.astype(np.float32), share), SKY)


def paint_end(canvas: Canvas, street: Street, look: Look, generator: np.random.Generator) -> None:
    """Close the street with distant houses and a line of trees."""
    shape = canvas.mask.shape
    rows = np.arange(shape[0], dtype=np.float32)[:, None]
    meters = street.end / street.focal
    height = (street.horizon - rows) * meters + street.eye
    right = (np.arange(shape[1], dtype=np.float32)[None, :] - street.vanishing) * meters
    house = np.floor(right / generator.uniform(9, 14)).astype(np.int32) % 64
    tops = generator.uniform(*look.storeys, 64).astype(np.float32)[house]
    color = np.array(look.plaster, np.float32)[generator.integers(len(look.plaster), size=64)]
    windows = 1 - np.float32(0.3) * ((wrap(height / 3) > 0.4) & (wrap(right / 2.5) > 0.5))
    walls = color[house[0]][None, :, :] * (0.75 * windows)[:, :, None]
    standing = (height >= 0) & (height < tops)
    canvas.cover(standing, haze(walls.astype(np.float32), street.end, look), BUILDING)
    crowns = 2 + 2.5 * look.trees + 1.2 * noise(generator, shape, 12.0, octaves=2)
    wood = paint(0.8 + 0.2 * noise(generator, shape, 3.0), look.leaves)
    canvas.cover((height >= 0) & (height < crowns), haze(wood, street.end, look), TREE)


def paint_ground(
    canvas: Canvas, street: Street, look: Look, generator: np.random.Generator
) -> None:
    """Paint road and pavement up to the end of the street."""
    first = int(street.horizon) + 1
    ground = canvas.part(slice(first, None), slice(None))
    shape = ground.mask.shape
    rows = np.arange(first, first + shape[0], dtype=np.float32)[:, None]
    columns = np.arange(shape[1], dtype=np.float32)[None, :]
    below = rows - street.horizon
    distance = (street.focal * street.eye / below).astype(np.float32)
    side = (columns - street.vanishing) * distance / street.focal + np.float32(street.offset)
    ahead = np.broadcast_to(distance, shape)
    grain = _material(generator, side, ahead, 0.03)
    rough = 0.10 * grain + 0.05 * _material(generator, side, ahead, 0.6)
    asphalt = paint(1 + rough, look.asphalt)
    line = (np.abs(side) < 0.09) & (wrap(ahead / 6) < 0.5)
    border = np.abs(np.abs(side) - street.half_road + 0.35) < 0.07
    asphalt[line | border] = (0.85, 0.85, 0.82)
    joints = ((wrap(side / 0.9) < 0.06) | (wrap(ahead / 0.9) < 0.06)) & (ahead < 18)
    slabs = paint(1 + 0.8 * rough - np.float32(0.25) * joints, look.slabs)
    kerb = np.abs(side) - street.half_road
    slabs[(kerb >= 0) & (kerb < 0.18)] *= 1.2
    light = np.float32(look.sun[2])
    visible = ahead < street.end
    ground.cover(visible, haze(slabs * light, ahead, look), PAVEMENT)
    ground.cover(visible & (kerb < 0), haze(asphalt * light, ahead, look), ROAD)


def paint_facades(
    canvas: Canvas, street: Street, look: Look, generator: np.random.Generator, side: int
) -> None:
    """Paint the row of houses on the left (-1) or right (1) side."""
    middle = int(street.vanishing)
    half = canvas.part(slice(None), slice(0, middle) if side < 0 else slice(middle + 1, None))
    shape = half.mask.shape
    rows = np.arange(shape[0], dtype=np.float32)[:, None]
    columns = np.arange(shape[1], dtype=np.float32)[None, :] + (0 if side < 0 else middle + 1)
    reach = street.wall - side * street.offset
    outwards = np.maximum(side * (columns - street.vanishing), 0.5)
    distance = (street.focal * reach / outwards).astype(np.float32)
    height = (street.horizon - rows) * distance / street.focal + np.float32(street.eye)
    ahead = np.broadcast_to(distance, shape)
    edges = np.cumsum(generator.uniform(8, 18, 24))
    house = np.searchsorted(edges, distance[0]).clip(0, 23)
    tops = generator.uniform(*look.storeys, 24).astype(np.float32)
    tops[generator.random(24) < 0.08] = 0
    colors = np.array(look.plaster, np.float32)[generator.integers(len(look.plaster), size=24)]
    colors = (colors * generator.uniform(0.85, 1.1, (24, 1))).astype(np.float32)
    rough = 1 + 0.07 * _material(generator, ahead, height, 0.08)
    rough += 0.08 * _material(generator, ahead, height, 1.5)
    walls = colors[house][None, :, :] * rough[:, :, None]
    walls = _with_windows(walls, generator, ahead, height, look)
    eaves = np.abs(height - tops[house][None, :] + 0.3) < 0.3
    walls[eaves] *= 0.6
    light = np.float32(look.sun[0 if side < 0 else 1])
    standing = (height >= 0) & (height < tops[house][None, :]) & (ahead < street.end)
    half.cover(standing, haze(walls * light, ahead, look), BUILDING)


def _with_windows(
    walls: Float32[np.ndarray, "height width 3"],
    generator: np.random.Generator,
    ahead: Float32[np.ndarray, "height width"],
    height: Float32[np.ndarray, "height width"],
    look: Look,
) -> Float32[np.ndarray, "height width 3"]:
    pitch, storey = generator.uniform(1.8, 3.0), generator.uniform(2.9, 3.5)
    across, up = ahead / pitch, height / storey
    sideways, upwards = np.abs(wrap(across) - 0.5), np.abs(wrap(up) - 0.52)
    glass = (sideways < 0.26) & (upwards < 0.28)
    frame = (sideways < 0.32) & (upwards < 0.34)
    row, column = np.floor(up).astype(np.int32), np.floor(across).astype(np.int32)
    tones = tone(generator, row, column)
    lit = tones > 1 - 2 * look.lit_windows
    panes = paint(0.26 + 0.12 * tones, (0.85, 0.95, 1.1))
    panes[lit] = (1.5, 1.2, 0.65)
    walls = np.where(frame[:, :, None], walls * np.float32(1.18), walls)
    return np.where(glass[:, :, None], panes, walls)


def _material(
    generator: np.random.Generator,
    first: Float32[np.ndarray, "height width"],
    second: Float32[np.ndarray, "height width"],
    grain: float,
) -> Float32[np.ndarray, "height width"]:
    """Noise that lies on a surface: coordinates in meters, grain of a sample in meters."""
    sheet = generator.standard_normal((_SHEET, _SHEET), dtype=np.float32)
    row = (second / grain).astype(np.int32) & (_SHEET - 1)
    column = (first / grain).astype(np.int32) & (_SHEET - 1)
    return np.asarray(sheet[row, column])
