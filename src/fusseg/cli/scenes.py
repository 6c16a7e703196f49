"""The command `fusseg scenes`: generated images with masks, to try everything on."""

import shlex
from pathlib import Path

from fusseg.core.visible_text import say
from fusseg.data.synthetic.scene_folder import write_scenes


def run_scenes(kind: str, out: Path, images: int, seed: int, held_out: str | None) -> None:
    """Write generated scenes as a folder of sites.

    Args:
        kind: `pipes` or `streets`.
        out: Folder to create.
        images: Images of each site.
        seed: Seed of the scenes.
        held_out: Site whose split is `test`, or None.

    Raises:
        ConfigError: If an option is out of range.
        DataError: If the folder is not empty, or cannot be written.
    """
    write_scenes(kind, out, images, seed, held_out)
    say(f"wrote {images} images a site, with masks; next: fusseg init {shlex.quote(str(out))}")
