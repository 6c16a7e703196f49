"""The table of generated scenes; a scene depends only on its kind, seed, site and index."""

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
    """One kind of scene: its sites, its classes, and the function that draws it."""

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


# Hashing, extraction and every evaluation draw the same scenes: the last ones are kept (20 MB).
@lru_cache(maxsize=64)
def draw_scene(
    scene: Scene,
) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
    """Draw the image and the mask of a scene, read-only; equal scenes are equal to the last bit.

    Examples:
        >>> image, mask = draw_scene(Scene("pipes", "yard", index=0, seed=0))
        >>> image.shape, mask.shape
        ((240, 320, 3), (240, 320))
    """
    key = f"{scene.kind}/{scene.seed}/{scene.site}/{scene.index}"
    generator = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    image, mask = SCENES[scene.kind].draw(scene.site, generator, SCENE_SHAPE)
    image.flags.writeable = False
    mask.flags.writeable = False
    return image, mask
