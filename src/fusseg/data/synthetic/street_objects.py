"""Things that stand in a street: trees, cars, poles with signs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from fusseg.data.synthetic.street_view import CAR, POLE, TREE, Canvas, Look, Street, haze
from fusseg.data.synthetic.textures import Color, noise, paint, vary

CAR_COLORS: tuple[Color, ...] = (
    (0.75, 0.76, 0.78), (0.10, 0.11, 0.13), (0.55, 0.10, 0.10), (0.12, 0.20, 0.45),
    (0.90, 0.90, 0.88), (0.35, 0.37, 0.38),
)  # fmt: skip
SIGN_COLORS: tuple[Color, ...] = ((0.80, 0.12, 0.12), (0.10, 0.25, 0.70), (0.92, 0.80, 0.15))


@dataclass(frozen=True)
class _Box:
    """The part of the canvas that an object covers, with its own coordinates."""

    canvas: Canvas
    across: Float32[np.ndarray, "height width"]
    """-0.5 at the left edge of the object, 0.5 at the right."""
    up: Float32[np.ndarray, "height width"]
    """0 on the ground, 1 at the top."""
    distance: float


@dataclass(frozen=True)
class _Placed:
    """An object to paint, where it stands and how large it is, in meters."""

    distance: float
    side: float
    """Distance to the right of the middle of the road."""
    width: float
    height: float
    paint: Callable[[_Box, Look, np.random.Generator], None]


def paint_objects(
    canvas: Canvas, street: Street, look: Look, generator: np.random.Generator
) -> None:
    """Place trees, poles and cars, and paint them from far to near."""
    placed = [
        *_trees(street, look, generator),
        *_poles(street, generator),
        *_cars(street, look, generator),
    ]
    for thing in sorted(placed, key=lambda thing: -thing.distance):
        box = _box(canvas, street, thing)
        if box is not None:
            thing.paint(box, look, generator)


def _trees(street: Street, look: Look, generator: np.random.Generator) -> list[_Placed]:
    placed = []
    for side in (-1, 1):
        for _ in range(generator.poisson(look.trees * 5)):
            height = generator.uniform(4, 8)
            place = side * (street.half_road + generator.uniform(0.8, 1.6))
            width = height * generator.uniform(0.5, 0.8)
            placed.append(_Placed(generator.uniform(8, 60), place, width, height, _paint_tree))
    return placed


def _poles(street: Street, generator: np.random.Generator) -> list[_Placed]:
    placed = []
    for side in (-1, 1):
        place = side * (street.half_road + 0.4)
        far = np.arange(generator.uniform(8, 22), street.end * 0.6, 24)
        placed += [_Placed(float(distance), place, 0.9, 6.5, _paint_lamp) for distance in far]
        for _ in range(generator.poisson(1.0)):
            near = generator.uniform(5, 25)
            placed.append(_Placed(near, place, 0.8, generator.uniform(2.4, 3.0), _paint_sign))
    return placed


def _cars(street: Street, look: Look, generator: np.random.Generator) -> list[_Placed]:
    placed = []
    for lane in (-0.84, -0.36, 0.36, 0.84):
        distance = generator.uniform(7, 22)
        while distance < street.end * 0.7:
            if generator.random() < look.cars:
                width, height = generator.uniform(1.7, 1.95), generator.uniform(1.4, 1.8)
                place = lane * (street.half_road - 0.6)
                placed.append(_Placed(distance, place, width, height, _paint_car))
            distance += generator.uniform(7, 16)
    return placed


def _box(canvas: Canvas, street: Street, thing: _Placed) -> _Box | None:
    """Project an object into the image; None if no part of it is visible."""
    scale = street.focal / thing.distance
    center = street.vanishing + (thing.side - street.offset) * scale
    ground = street.horizon + street.eye * scale
    height, width = canvas.mask.shape
    rows = slice(max(0, int(ground - thing.height * scale)), min(height, int(ground) + 1))
    columns = slice(
        max(0, int(center - thing.width * scale / 2)),
        min(width, int(center + thing.width * scale / 2) + 1),
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    across, up = np.meshgrid(
        (np.arange(columns.start, columns.stop) + 0.5 - center) / (thing.width * scale),
        (ground - np.arange(rows.start, rows.stop) - 0.5) / (thing.height * scale),
    )
    part = canvas.part(rows, columns)
    return _Box(part, across.astype(np.float32), up.astype(np.float32), thing.distance)


def _paint_tree(box: _Box, look: Look, generator: np.random.Generator) -> None:
    shape = box.across.shape
    leaf = 0.35 * 8 / box.distance * 8
    ragged = noise(generator, shape, max(2.0, 3 * leaf), octaves=3)
    radius = np.hypot(box.across / 0.5, (box.up - 0.64) / 0.36)
    crown = (radius < 0.82 + 0.10 * ragged) & (ragged > -2.6)
    fine = noise(generator, shape, max(2.0, leaf))
    shade = 0.75 + 0.16 * ragged + 0.14 * fine + 0.5 * (box.up - 0.6)
    sun = np.float32(look.sun[2])
    leaves = paint(shade.clip(0.2, 2) * sun, vary(generator, look.leaves, 0.2))
    bark = paint((0.9 + 0.2 * fine) * sun, (0.28, 0.22, 0.17))
    trunk = (np.abs(box.across) < 0.035) & (box.up < 0.6) & (box.up >= 0)
    box.canvas.cover(trunk, haze(bark, box.distance, look), TREE)
    box.canvas.cover(crown, haze(leaves, box.distance, look), TREE)


def _paint_car(box: _Box, look: Look, generator: np.random.Generator) -> None:
    """Paint the rear of a car."""
    across, up = np.abs(box.across), box.up
    color = vary(generator, CAR_COLORS[generator.integers(len(CAR_COLORS))], 0.15)
    roof = 0.49 - 0.16 * ((up - 0.5) / 0.5).clip(0, 1)
    body = (up >= 0.14) & (up < 0.98) & (across < roof)
    wheels = (up >= 0) & (up <= 0.3) & (across > 0.3) & (across < 0.46)
    light = paint(0.7 + 0.5 * up, color)
    light[(up > 0.56) & (up < 0.90) & (across < roof - 0.06)] = (0.12, 0.15, 0.19)
    light[(up > 0.14) & (up < 0.26)] *= 0.45
    light[(up > 0.40) & (up < 0.52) & (across > 0.36)] = (0.85, 0.10, 0.08)
    light[(up > 0.28) & (up < 0.36) & (across < 0.14)] = (0.85, 0.85, 0.75)
    light[wheels & ~body] = (0.05, 0.05, 0.05)
    under = (up >= -0.02) & (up < 0.14) & (across < 0.47)
    box.canvas.image[under] *= 0.35
    lit = haze(light * np.float32(look.sun[2]), box.distance, look)
    box.canvas.cover(body | wheels, lit, CAR)


def _paint_lamp(box: _Box, look: Look, generator: np.random.Generator) -> None:
    shaft = (np.abs(box.across) < 0.09) & (box.up >= 0) & (box.up < 0.97)
    head = (box.across > -0.09) & (box.across < 0.45) & (box.up > 0.95) & (box.up < 0.99)
    light = paint(np.full(box.up.shape, generator.uniform(0.2, 0.5), np.float32), (1.0, 1.0, 1.05))
    box.canvas.cover(shaft | head, haze(light, box.distance, look), POLE)


def _paint_sign(box: _Box, look: Look, generator: np.random.Generator) -> None:
    post = (np.abs(box.across) < 0.06) & (box.up >= 0) & (box.up < 0.9)
    radius = np.hypot(box.across / 0.48, (box.up - 0.86) / 0.14)
    if generator.random() < 0.5:
        radius = np.maximum(np.abs(box.across) / 0.48, np.abs(box.up - 0.86) / 0.14)
    light = paint(np.full(box.up.shape, 0.5, np.float32), (1.0, 1.0, 1.0))
    light[radius < 1] = SIGN_COLORS[generator.integers(len(SIGN_COLORS))]
    light[radius < 0.6] = (0.92, 0.92, 0.92)
    lit = haze(light * np.float32(look.sun[2]), box.distance, look)
    box.canvas.cover(post | (radius < 1), lit, POLE)
