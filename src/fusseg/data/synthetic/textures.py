"""Random textures of materials, as brightness or color per pixel."""

import math

import numpy as np
from jaxtyping import Float32, Int
from PIL import Image

Color = tuple[float, float, float]
"""RGB; 1 is full scale."""


def noise(
    generator: np.random.Generator,
    shape: tuple[int, int],
    cell: float | tuple[int, int],
    octaves: int = 1,
) -> Float32[np.ndarray, "height width"]:
    """Smooth noise of mean 0 and standard deviation near 1.

    Args:
        generator: Source of the noise.
        shape: Height and width.
        cell: Size of the largest blobs in pixels, or their height and width.
        octaves: Layers added, each with half the size and half the strength of the one before.
    """
    rows, columns = cell if isinstance(cell, tuple) else (cell, cell)
    total = np.zeros(shape, dtype=np.float32)
    for octave in range(octaves):
        grid = (
            max(2, round(shape[0] * 2**octave / rows)),
            max(2, round(shape[1] * 2**octave / columns)),
        )
        values = generator.standard_normal(grid, dtype=np.float32)
        layer = Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        total += np.asarray(layer) * np.float32(0.5**octave)
    return total


def plane(
    generator: np.random.Generator, shape: tuple[int, int], tilt: float, turn: float
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Coordinates on a plane seen by a camera, in pixels at the middle of the image.

    Args:
        generator: Source of the viewpoint.
        shape: Height and width of the image.
        tilt: Largest change of scale from one edge of the image to its middle.
        turn: Largest rotation, in radians.
    """
    rows = np.arange(shape[0], dtype=np.float32)[:, None] - shape[0] / 2
    columns = np.arange(shape[1], dtype=np.float32)[None, :] - shape[1] / 2
    across, down = generator.uniform(-tilt, tilt), generator.uniform(-tilt, tilt)
    depth = 1 + columns * (across * 2 / shape[1]) + rows * (down * 2 / shape[0])
    angle = generator.uniform(-turn, turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    x = (columns * cosine + rows * sine) / depth + generator.uniform(0, 1000)
    y = (rows * cosine - columns * sine) / depth + generator.uniform(0, 1000)
    return x, y


def tone(
    generator: np.random.Generator,
    row: Int[np.ndarray, "height width"],
    column: Int[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """Random value in [-1, 1] per tile, the same for all of its pixels."""
    table = generator.uniform(-1, 1, (64, 64)).astype(np.float32)
    return np.asarray(table[row & 63, column & 63])


def stones(
    generator: np.random.Generator,
    x: Float32[np.ndarray, "height width"],
    y: Float32[np.ndarray, "height width"],
    size: float,
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Irregular stones packed on a plane (nearest of jittered grid points).

    Returns:
        Height of the stone in [0, 1], 0 in the gaps, and a tone in [-1, 1] per stone.
    """
    jitter = generator.uniform(0, 1, (2, 64, 64)).astype(np.float32)
    tones = generator.uniform(-1, 1, (64, 64)).astype(np.float32)
    scaled_x, scaled_y = x / size, y / size
    floor_y, floor_x = np.floor(scaled_y), np.floor(scaled_x)
    row, column = floor_y.astype(np.int32), floor_x.astype(np.int32)
    part_y, part_x = scaled_y - floor_y, scaled_x - floor_x
    nearest = np.full(x.shape, 9, dtype=np.float32)
    second = nearest.copy()
    picked = np.zeros_like(nearest)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            tile_row, tile_column = (row + down) & 63, (column + right) & 63
            offset_y = jitter[0, tile_row, tile_column] + down - part_y
            offset_x = jitter[1, tile_row, tile_column] + right - part_x
            distance = offset_y**2 + offset_x**2
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            nearest = np.where(closer, distance, nearest)
            picked = np.where(closer, tones[tile_row, tile_column], picked)
    border = np.sqrt(second) - np.sqrt(nearest)
    return (border * 2.5).clip(0, 1), picked


def wrap(value: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """Fractional part, in [0, 1): the position inside a tile of side 1."""
    return np.asarray(value - np.floor(value))


def enlarge(
    small: Float32[np.ndarray, "rows columns"], shape: tuple[int, int]
) -> Float32[np.ndarray, "height width"]:
    """Interpolate to a larger shape."""
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BILINEAR))


def paint(
    brightness: Float32[np.ndarray, "height width"], color: Color
) -> Float32[np.ndarray, "height width 3"]:
    """Color a brightness."""
    return brightness[:, :, None] * np.array(color, dtype=np.float32)


def blend(
    under: Float32[np.ndarray, "height width 3"],
    over: Float32[np.ndarray, "height width 3"],
    share: Float32[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width 3"]:
    """Lay one image over another, with the share of the upper one in [0, 1]."""
    return np.asarray(under + (over - under) * share[:, :, None])


def vary(generator: np.random.Generator, color: Color, spread: float) -> Color:
    """Shift brightness and hue of a color at random."""
    level = generator.uniform(1 - spread, 1 + spread)
    red, green, blue = (
        np.array(color) * level * generator.uniform(1 - spread / 3, 1 + spread / 3, 3)
    )
    return float(red), float(green), float(blue)
