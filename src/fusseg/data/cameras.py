"""Recipes that make an image look like one of another camera, to simulate sites that differ.

All lengths are shares of the image's shorter side, so that a recipe means the same at any size.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from fusseg.config.schema import Camera
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.data.items import Item

BLUR = 0.01
"""`blurred`: standard deviation of a Gaussian, as a share of the shorter side."""
TINT = (1.2, 1.0, 0.7)
"""`tinted`: factors of red, green and blue; values beyond white are white."""
NOISE = 20.0
"""`noisy`: standard deviation of Gaussian noise, of 255."""
GRAINS = 320
"""`noisy`: grains of noise along the shorter side; between their centers it is interpolated."""

Pixels = UInt8[np.ndarray, "height width 3"]


def choose_cameras(items: Sequence[Item], cameras: Mapping[str, Camera]) -> tuple[Item, ...]:
    """Say which camera each training image is seen through (`data.cameras`).

    Raises:
        ConfigError: If there is no client of a name.
    """
    clients = sorted({item.client for item in items})
    for name in cameras:
        if name not in clients:
            raise ConfigError(
                f"data.cameras names the client {name!r}, who has no training image; "
                f"{nearest_name(name, clients)}"
            )
    return tuple(
        replace(item, camera=cameras[item.client]) if item.client in cameras else item
        for item in items
    )


def see_through(camera: Camera, pixels: Pixels) -> Pixels:
    """Change an image as a camera would; the same image gives the same pixels.

    Examples:
        >>> gray = np.full((2, 2, 3), 100, np.uint8)
        >>> see_through("tinted", gray)[0, 0].tolist()
        [120, 100, 70]
    """
    return _RECIPES[camera](pixels)


def _blur(pixels: Pixels) -> Pixels:
    radius = BLUR * min(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _tint(pixels: Pixels) -> Pixels:
    return _to_8_bits(pixels * np.array(TINT))


def _add_noise(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = min(1.0, GRAINS / min(height, width))
    grid = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    seed = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
    grains = np.random.default_rng(seed).normal(0, NOISE, grid).astype(np.float32)
    bands = [
        Image.fromarray(grains[:, :, band]).resize((width, height), Image.Resampling.BILINEAR)
        for band in range(3)
    ]
    return _to_8_bits(pixels + np.stack([np.asarray(band) for band in bands], axis=2))


def _to_8_bits(values: Float[np.ndarray, "height width 3"]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


_RECIPES: dict[Camera, Callable[[Pixels], Pixels]] = {
    "blurred": _blur,
    "tinted": _tint,
    "noisy": _add_noise,
}
