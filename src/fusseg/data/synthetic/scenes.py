"""Generated scenes: a table of kinds, each drawn from its seed, site and index alone."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from fusseg.data.synthetic import pipes, streets

SCENE_SHAPE = (240, 320)
"""Height and width of every scene, in pixels."""

Drawing = Callable[
    [str, np.random.Generator, tuple[int, int]],
    tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]],
]
"""Draws image and mask of one site."""


@dataclass(frozen=True)
class Scene:
    """One generated image with its mask, not drawn yet."""

    kind: str
    site: str
    index: int
    seed: int


@dataclass(frozen=True)
class SceneKind:
    """What one kind of scene shows."""

    sites: tuple[str, ...]
    class_names: tuple[str, ...]
    """In order of pixel value."""
    colors: tuple[tuple[int, int, int], ...]
    """RGB in [0, 255], one per class."""
    draw: Drawing


SCENES: dict[str, SceneKind] = {
    "pipes": SceneKind(tuple(pipes.LOOKS), pipes.CLASS_NAMES, pipes.COLORS, pipes.draw),
    "streets": SceneKind(tuple(streets.LOOKS), streets.CLASS_NAMES, streets.COLORS, streets.draw),
}
"""Kinds of scenes by name; adding one is one function and one line."""


# the last scenes are kept (20 MB), because hashing, extraction and every evaluation ask again
@lru_cache(maxsize=64)
def draw_scene(
    scene: Scene,
) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
    """Draw image and mask of a scene, read-only; equal scenes are equal to the last bit."""
    key = f"{scene.kind}/{scene.seed}/{scene.site}/{scene.index}"
    generator = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    image, mask = SCENES[scene.kind].draw(scene.site, generator, SCENE_SHAPE)
    image.flags.writeable = False
    mask.flags.writeable = False
    return image, mask
