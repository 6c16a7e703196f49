"""Colors of regions: distinct palettes, index maps as color images, overlays on photos."""

import numpy as np
from jaxtyping import Float, Integer, UInt8

from fusseg.core.errors import ConfigError

OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Color-blind safe first colors (Okabe and Ito 2008), RGB; without black, which hides a tint."""

UNASSIGNED = (128, 128, 128)
"""RGB of pixels that belong to no region or class."""

BORDER = (255, 255, 255)
"""RGB of the lines between regions."""

# Protanopia and deuteranopia in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
_DEFICIENCIES = np.array(
    [
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ]
)
# Linear RGB to cone responses, and their cube roots to lightness and two opponents (Ottosson 2020).
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def palette(num: int) -> UInt8[np.ndarray, "{num} 3"]:
    """Choose distinct colors; a longer palette starts with the shorter one.

    The first seven are Okabe and Ito's. Each further color is the one farthest from all before it,
    as seen with normal and with red-green deficient vision.

    Raises:
        ConfigError: If more colors are asked for than can be told apart.

    Examples:
        >>> palette(3).tolist()
        [[230, 159, 0], [86, 180, 233], [0, 158, 115]]
    """
    return spread_colors(np.array(OKABE_ITO, np.uint8)[:num], num)


def spread_colors(
    taken: UInt8[np.ndarray, "taken 3"], num: int
) -> UInt8[np.ndarray, "at_least_num 3"]:
    """Extend given colors to a number of them, each new one as far as possible from all others.

    Args:
        taken: Colors that come first, for instance those of a data set's classes.
        num: Length of the result; at most as many as are taken: the taken ones alone.

    Raises:
        ConfigError: If more colors are asked for than can be told apart.
    """
    if num <= len(taken):
        return taken
    candidates = _candidates()
    if num - len(taken) > len(candidates):
        raise ConfigError(
            f"a palette has at most {len(taken) + len(candidates)} colors here, got {num}; "
            "lower num_clusters"
        )
    seen = _as_seen(candidates)
    nearest = np.full(len(candidates), np.inf)
    for color in _as_seen(taken):
        nearest = np.minimum(nearest, _separation(seen, color))
    chosen = []
    for _ in range(num - len(taken)):
        farthest = int(nearest.argmax())
        chosen.append(farthest)
        nearest = np.minimum(nearest, _separation(seen, seen[farthest]))
        # Rounding may leave a tiny distance between a chosen color and itself.
        nearest[farthest] = -1
    return np.concatenate([taken, candidates[chosen]])


def colorize(
    regions: Integer[np.ndarray, "height width"], colors: UInt8[np.ndarray, "colors 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Turn an index map into an RGB image; an index without a color (ignored pixels) becomes gray.

    Examples:
        >>> colorize(np.array([[0, 1, 255]]), palette(2)).tolist()
        [[[230, 159, 0], [86, 180, 233], [128, 128, 128]]]
    """
    table = np.concatenate([colors, np.array([UNASSIGNED], np.uint8)])
    known = (regions >= 0) & (regions < len(colors))
    return table[np.where(known, regions, len(colors))]


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    regions: Integer[np.ndarray, "height width"],
    colors: UInt8[np.ndarray, "colors 3"],
    opacity: float = 0.5,
    borders: bool = True,
) -> UInt8[np.ndarray, "height width 3"]:
    """Tint an image with the colors of its regions.

    Args:
        image: RGB in [0, 255].
        regions: Index of each pixel; an index without a color becomes gray.
        colors: One per index.
        opacity: Share of the region's color in [0, 1]; 0 leaves the image as it is.
        borders: Draw a white line, one pixel wide, where two regions meet.

    Raises:
        ConfigError: If the opacity lies outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity must lie in [0, 1], got {opacity}")
    tint = colorize(regions, colors)
    mixed = np.rint((1 - opacity) * image + opacity * tint.astype(np.float64)).astype(np.uint8)
    if borders:
        mixed[_border_pixels(regions)] = BORDER
    return mixed


def _border_pixels(
    regions: Integer[np.ndarray, "height width"],
) -> np.ndarray:
    border = np.zeros(regions.shape, bool)
    border[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    border[:-1] |= regions[:-1] != regions[1:]
    return border


def _candidates() -> UInt8[np.ndarray, "candidates 3"]:
    """List the colors of a grid that are neither near black, near white, gray nor neon."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *opponents = _oklab(_linear(grid)).T
    chroma = np.hypot(*opponents)
    between = (lightness > 0.38) & (lightness < 0.88) & (chroma > 0.05) & (chroma < 0.23)
    candidates: np.ndarray = grid[between]
    return candidates


def _as_seen(colors: UInt8[np.ndarray, "colors 3"]) -> Float[np.ndarray, "colors views 3"]:
    """Place colors in OKLab under normal, protanopic and deuteranopic vision."""
    linear = _linear(colors)
    views = [linear, *(np.clip(linear @ matrix.T, 0, 1) for matrix in _DEFICIENCIES)]
    return np.stack([_oklab(view) for view in views], axis=1)


def _separation(
    seen: Float[np.ndarray, "colors views 3"], other: Float[np.ndarray, "views 3"]
) -> Float[np.ndarray, " colors"]:
    """Average the distance to another color under normal and under the worse deficient vision."""
    distances = np.linalg.norm(seen - other, axis=-1)
    separation: np.ndarray = (distances[:, 0] + distances[:, 1:].min(axis=1)) / 2
    return separation


def _linear(colors: UInt8[np.ndarray, "colors 3"]) -> Float[np.ndarray, "colors 3"]:
    encoded = colors / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def _oklab(linear: Float[np.ndarray, "colors 3"]) -> Float[np.ndarray, "colors 3"]:
    lab: np.ndarray = np.cbrt(linear @ _TO_CONES.T) @ _TO_OKLAB.T
    return lab
