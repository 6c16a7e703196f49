"""Industrial surfaces behind a pipe: gravel, grid floor, brick wall, rusty plate."""

import numpy as np
from jaxtyping import Float32

from fusseg.data.synthetic.textures import (
    blend,
    enlarge,
    noise,
    paint,
    plane,
    stones,
    tone,
    vary,
    wrap,
)


def gravel(
    generator: np.random.Generator, shape: tuple[int, int]
) -> Float32[np.ndarray, "height width 3"]:
    """Coarse gravel with patches of dust."""
    x, y = plane(generator, shape, tilt=0.3, turn=0.5)
    # half the pixels are enough: gravel is soft at its edges, and this is the slowest step
    coarse = stones(generator, x[::2, ::2], y[::2, ::2], generator.uniform(9, 14))
    height, tones = enlarge(coarse[0], shape), enlarge(coarse[1], shape)
    lit = height * (0.62 + 0.22 * tones) + 0.10 * noise(generator, shape, 2.0)
    ground = paint(lit + 0.16, vary(generator, (0.88, 0.82, 0.73), 0.12))
    dust = paint(0.55 + 0.14 * noise(generator, shape, 2.0), (0.95, 0.85, 0.68))
    patches = (0.35 * noise(generator, shape, 70.0, octaves=3) - 0.1).clip(0, 0.5)
    return blend(ground, dust, patches.astype(np.float32))


def grid_floor(
    generator: np.random.Generator, shape: tuple[int, int]
) -> Float32[np.ndarray, "height width 3"]:
    """Steel grating over a dark pit."""
    x, y = plane(generator, shape, tilt=0.35, turn=1.5)
    pitch = generator.uniform(11, 15)
    bars = np.abs(wrap(y / pitch) - 0.5) * 2
    rods = np.abs(wrap(x / (pitch * generator.uniform(1.2, 2.4))) - 0.5) * 2
    steel = np.maximum(_edge(bars, 0.60), _edge(rods, 0.72))
    worn = 0.62 + 0.10 * noise(generator, shape, 3.0) + 0.10 * noise(generator, shape, 60.0)
    top = paint(worn * (0.75 + 0.45 * bars), vary(generator, (0.80, 0.86, 0.92), 0.10))
    pit = paint(0.13 + 0.05 * noise(generator, shape, 14.0, octaves=3), (0.9, 1.0, 1.1))
    return blend(pit, top, steel.astype(np.float32))


def brick_wall(
    generator: np.random.Generator, shape: tuple[int, int]
) -> Float32[np.ndarray, "height width 3"]:
    """Old bricks in running bond, with soot."""
    x, y = plane(generator, shape, tilt=0.3, turn=0.25)
    course = generator.uniform(13, 18)
    row = np.floor(y / course).astype(np.int32)
    along = x / (course * 2.3) + np.float32(0.5) * (row & 1)
    along = along.astype(np.float32)
    column = np.floor(along).astype(np.int32)
    tones = tone(generator, row, column)
    face = np.minimum(
        _edge(1 - np.abs(wrap(y / course) - 0.5) * 2, 0.16),
        _edge(1 - np.abs(wrap(along) - 0.5) * 2, 0.08),
    )
    rough = 0.17 * noise(generator, shape, 2.5) + 0.10 * noise(generator, shape, 8.0)
    bricks = paint(0.58 + 0.24 * tones + rough, vary(generator, (0.92, 0.62, 0.48), 0.15))
    mortar = paint(0.62 + 0.12 * noise(generator, shape, 2.0), (1.05, 1.02, 0.95))
    soot = 1 - (0.18 * noise(generator, shape, 90.0, octaves=2) + 0.1).clip(0, 0.45)
    return blend(mortar, bricks, face.astype(np.float32)) * soot[:, :, None].astype(np.float32)


def rusty_plate(
    generator: np.random.Generator, shape: tuple[int, int]
) -> Float32[np.ndarray, "height width 3"]:
    """Painted plate with rust, pits, runs and rivets."""
    pits = noise(generator, shape, 2.5) * 0.13 + noise(generator, shape, 5.0) * 0.10
    paintwork = paint(0.58 + pits, vary(generator, (0.80, 0.88, 0.86), 0.15))
    rust = paint(0.50 + 1.4 * pits, vary(generator, (0.86, 0.50, 0.28), 0.15))
    stains = noise(generator, shape, 60.0, octaves=4)
    runs = noise(generator, shape, (140, 7), octaves=2)
    share = (0.9 * stains + 0.5 * runs + 0.2).clip(0, 1)
    plate = blend(paintwork, rust, share)
    x, y = plane(generator, shape, tilt=0.15, turn=0.15)
    pitch = generator.uniform(34, 46)
    rivet = np.hypot(wrap(x / pitch) - 0.5, wrap(y / pitch) - 0.5) * pitch
    lift = np.where(rivet < 5, (4 - rivet) * 0.07, 0) - 0.12 * (np.abs(rivet - 5.5) < 1)
    return np.asarray((plate * (1 + lift)[:, :, None]).astype(np.float32))


def _edge(
    value: Float32[np.ndarray, "height width"], bound: float
) -> Float32[np.ndarray, "height width"]:
    """1 above a bound and 0 below, with a soft step between them."""
    return ((value - bound) * 8 + 0.5).clip(0, 1).astype(np.float32)
