"""Street-like scenes of seven classes in perspective, with exact masks."""

import numpy as np
from jaxtyping import UInt8

from fusseg.data.synthetic.camera import Camera, photograph
from fusseg.data.synthetic.street_objects import paint_objects
from fusseg.data.synthetic.street_surfaces import paint_end, paint_facades, paint_ground, paint_sky
from fusseg.data.synthetic.street_view import Canvas, Look, Street

CLASS_NAMES = ("sky", "building", "road", "pavement", "tree", "car", "pole")
COLORS = (
    (70, 130, 180),
    (110, 80, 80),
    (128, 64, 128),
    (230, 130, 200),
    (80, 150, 50),
    (20, 30, 160),
    (220, 190, 40),
)


LOOKS: dict[str, Look] = {
    "avenue": Look(
        zenith=(0.30, 0.52, 0.86), horizon=(0.74, 0.85, 0.95), clouds=0.25,
        plaster=((0.82, 0.76, 0.64), (0.72, 0.70, 0.68), (0.62, 0.48, 0.40)),
        storeys=(11.0, 24.0), lit_windows=0.02,
        asphalt=(0.40, 0.40, 0.42), slabs=(0.66, 0.63, 0.58), leaves=(0.26, 0.44, 0.14),
        road=(5.0, 6.5), trees=0.9, cars=0.45, sun=(0.62, 1.05, 1.0), fog=260.0,
        camera=Camera(noise=0.008, contrast=1.15, white_balance=(1.03, 1.0, 0.95)),
    ),
    "oldtown": Look(
        zenith=(0.74, 0.76, 0.79), horizon=(0.86, 0.87, 0.88), clouds=0.9,
        plaster=((0.84, 0.62, 0.38), (0.78, 0.50, 0.40), (0.86, 0.80, 0.62), (0.58, 0.66, 0.60)),
        storeys=(8.0, 14.0), lit_windows=0.05,
        asphalt=(0.36, 0.34, 0.33), slabs=(0.52, 0.49, 0.46), leaves=(0.22, 0.34, 0.18),
        road=(2.6, 3.4), trees=0.15, cars=0.35, sun=(0.80, 0.84, 0.86), fog=90.0,
        camera=Camera(noise=0.018, blur=0.9, contrast=0.85, white_balance=(0.97, 1.0, 1.05)),
    ),
    "suburb": Look(
        zenith=(0.42, 0.62, 0.88), horizon=(0.80, 0.88, 0.94), clouds=0.5,
        plaster=((0.88, 0.87, 0.84), (0.66, 0.38, 0.30), (0.75, 0.72, 0.60)),
        storeys=(4.0, 7.0), lit_windows=0.0,
        asphalt=(0.52, 0.51, 0.50), slabs=(0.74, 0.71, 0.66), leaves=(0.46, 0.42, 0.12),
        road=(3.4, 4.4), trees=1.4, cars=0.3, sun=(1.0, 0.68, 0.98), fog=320.0,
        camera=Camera(noise=0.006, exposure=1.08, vignette=0.2, jpeg_quality=38),
    ),
    "dusk": Look(
        zenith=(0.20, 0.24, 0.42), horizon=(0.86, 0.52, 0.32), clouds=0.4,
        plaster=((0.50, 0.46, 0.46), (0.40, 0.42, 0.50), (0.58, 0.46, 0.38)),
        storeys=(9.0, 30.0), lit_windows=0.35,
        asphalt=(0.30, 0.29, 0.32), slabs=(0.42, 0.39, 0.40), leaves=(0.14, 0.20, 0.12),
        road=(4.0, 6.0), trees=0.5, cars=0.6, sun=(0.55, 0.48, 0.62), fog=220.0,
        camera=Camera(
            noise=0.032, blur=0.6, vignette=0.35, exposure=0.95, white_balance=(1.08, 0.96, 0.92)
        ),
    ),
}  # fmt: skip


def draw(
    site: str, generator: np.random.Generator, shape: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
    """Draw a street at one of the sites, and its mask in the order of the classes."""
    look = LOOKS[site]
    half_road = generator.uniform(*look.road)
    street = Street(
        horizon=shape[0] * generator.uniform(0.42, 0.52),
        vanishing=shape[1] * generator.uniform(0.36, 0.64),
        focal=shape[1] * generator.uniform(0.75, 0.95),
        eye=generator.uniform(1.3, 1.9),
        offset=half_road * generator.uniform(0.1, 0.6),
        half_road=half_road,
        wall=half_road + generator.uniform(2.2, 4.0),
        end=generator.uniform(70, 120),
    )
    canvas = Canvas(np.zeros((*shape, 3), np.float32), np.zeros(shape, np.uint8))
    paint_sky(canvas, street, look, generator)
    paint_end(canvas, street, look, generator)
    paint_ground(canvas, street, look, generator)
    for side in (-1, 1):
        paint_facades(canvas, street, look, generator, side)
    paint_objects(canvas, street, look, generator)
    return photograph(canvas.image, look.camera, generator), canvas.mask
