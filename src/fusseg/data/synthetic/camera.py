"""Simulated cameras: exposure, blur, noise and compression of a site's images."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter


@dataclass(frozen=True, kw_only=True)
class Camera:
    """How one site's camera renders a scene."""

    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Gain of red, green and blue."""
    exposure: float = 1.0
    """Gain of all channels; varies a little from image to image."""
    contrast: float = 1.0
    """Slope around middle gray."""
    vignette: float = 0.0
    """Share of the light lost in the corners."""
    blur: float = 0.0
    """Standard deviation of the lens blur, in pixels."""
    noise: float = 0.01
    """Standard deviation of the sensor noise, as a share of full scale."""
    jpeg_quality: int | None = None
    """Quality of the lossy compression; None: none."""


def photograph(
    light: Float32[np.ndarray, "height width 3"], camera: Camera, generator: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Expose, blur, add noise and compress.

    Args:
        light: RGB of the scene; 1 is full scale.
        camera: The camera of the site.
        generator: Random generator of the exposure and the noise.
    """
    height, width = light.shape[:2]
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    falloff = 1 - camera.vignette * (rows**2 + columns**2) / 2
    exposure = camera.exposure * generator.uniform(0.9, 1.1)
    gain = np.array(camera.white_balance, dtype=np.float32) * np.float32(exposure)
    exposed = (light * gain * falloff[:, :, None] - 0.5) * camera.contrast + 0.5
    blurred = Image.fromarray(to_bytes(exposed))
    if camera.blur:
        blurred = blurred.filter(ImageFilter.GaussianBlur(camera.blur))
    grain = generator.standard_normal(light.shape, dtype=np.float32) * np.float32(camera.noise)
    return _compress(to_bytes(np.asarray(blurred, dtype=np.float32) / 255 + grain), camera)


def to_bytes(light: Float32[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Round to 8 bits, clipping at black and at full scale."""
    return (light.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _compress(
    image: UInt8[np.ndarray, "height width 3"], camera: Camera
) -> UInt8[np.ndarray, "height width 3"]:
    if camera.jpeg_quality is None:
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=camera.jpeg_quality)
    return np.array(Image.open(buffer))
