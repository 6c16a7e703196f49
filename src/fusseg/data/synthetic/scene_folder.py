"""Writing generated scenes as a folder of sites, for users without images of their own."""

import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tomli_w
from jaxtyping import UInt8
from PIL import Image

from fusseg.core.errors import ConfigError, DataError, nearest_name
from fusseg.core.files import write_atomically
from fusseg.data.synthetic.scenes import SCENES, Scene, SceneKind, draw_scene


def write_scenes(
    kind: str, out: Path, images_per_site: int, seed: int = 0, held_out: str | None = None
) -> None:
    """Write the scenes of every site with masks and classes: the whole folder or nothing.

    Args:
        kind: Key of `SCENES`.
        out: Folder of sites to create; it must not exist or must be empty.
        images_per_site: From 2 to 99999.
        seed: Seed of the scenes; equal seeds give equal bytes.
        held_out: Site with the split `test` in splits.csv, where the others have `train`; None:
            no splits.csv.

    Raises:
        ConfigError: If the kind or the site is unknown, or the number is out of range.
        DataError: If the folder is not empty, or cannot be written.
    """
    shown = _check_wanted(kind, images_per_site, held_out)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} already exists; choose a new folder, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as made:
            folder = Path(made) / out.name
            for site in shown.sites:
                for index in range(images_per_site):
                    _write_scene(Scene(kind, site, index, seed), folder / site)
            _write_tables(shown, folder, images_per_site, held_out)
            if out.exists():
                out.rmdir()
            shutil.move(folder, out)
    except OSError as error:
        raise DataError(f"cannot write {error.filename or out}: {error.strerror}") from error


def _check_wanted(kind: str, images_per_site: int, held_out: str | None) -> SceneKind:
    if kind not in SCENES:
        raise ConfigError(f"unknown scenes {kind!r}; {nearest_name(kind, SCENES)}")
    if not 2 <= images_per_site <= 99_999:
        raise ConfigError(f"images per site must be 2 to 99999, got {images_per_site}")
    shown = SCENES[kind]
    if held_out is not None and held_out not in shown.sites:
        raise ConfigError(f"unknown site {held_out!r}; {nearest_name(held_out, shown.sites)}")
    return shown


def _write_scene(scene: Scene, site: Path) -> None:
    image, mask = draw_scene(scene)
    for pixels, name in ((image, "images"), (mask, "masks")):
        path = site / name / f"{scene.index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _png(pixels))


def _png(pixels: UInt8[np.ndarray, "..."]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _write_tables(
    shown: SceneKind, folder: Path, images_per_site: int, held_out: str | None
) -> None:
    classes = {"names": list(shown.class_names), "colors": [list(rgb) for rgb in shown.colors]}
    write_atomically(folder / "classes.toml", tomli_w.dumps(classes).encode())
    if held_out is None:
        return
    rows = [
        f"{index:05d},{site},{'test' if site == held_out else 'train'}"
        for site in shown.sites
        for index in range(images_per_site)
    ]
    write_atomically(folder / "splits.csv", "\n".join(["stem,site,split", *rows, ""]).encode())
