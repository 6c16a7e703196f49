"""Files of a prediction: an index PNG, an overlay JPEG, and a description as JSON."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EISDIR
from hashlib import sha256
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusseg.config.schema import SEEN
from fusseg.core.colors import UNASSIGNED, overlay
from fusseg.core.errors import DataError
from fusseg.core.files import blaming, write_atomically
from fusseg.core.version import VERSION
from fusseg.prediction.segmentation import Segmentation
from fusseg.prediction.segmenter import Segmenter
from fusseg.prediction.tiling import Pixels
from fusseg.prediction.viewing import PredictOptions
from fusseg.runs.regions import hex_color

FORMAT_VERSION = 1
JPEG_SIDE = 65_500
"""Longest side of a JPEG; overlays of larger images are scaled down."""
_STRIP = 256
_DIGESTS = ("png_sha256", "overlay_sha256")
"""Fields of the description with the digests of the other files."""


@dataclass(frozen=True)
class SourceImage:
    """An image file, identified by its bytes."""

    path: Path
    sha256: str
    """SHA-256 of the file, hex."""


def describe_making(segmenter: Segmenter, options: PredictOptions) -> dict[str, Any]:
    """Describe what results depend on besides the image: model, preprocessing, names, options.

    The batch size is left out because it changes results only by rounding.
    """
    return {
        "run": segmenter.name,
        "state": segmenter.digest,
        "round": segmenter.round_number,
        "site": segmenter.site,
        "regions": segmenter.regions.digest,
        # Converted by JSON, for comparison: tuples become lists.
        **json.loads(json.dumps({name: getattr(segmenter.data, name) for name in SEEN})),
        "scale": options.scale,
        "tile": options.tile,
        "refine": options.refine,
        # Regions may have the names and colors of classes.
        **({} if segmenter.model.classifier is None else {"classes": True}),
    }


Known = Literal["done", "other image", "not done"]
"""State of the results of an image: complete and its own, those of another image, or neither."""


def look_up_results(
    image: SourceImage, files: tuple[Path, Path, Path], making: dict[str, Any]
) -> Known:
    """Check whether results are complete, of this image, and made in the same way.

    Args:
        image: The image; its name and its bytes are compared.
        files: Paths from `result_files`.
        making: Description from `describe_making`.
    """
    try:
        described = json.loads(files[-1].read_bytes())
        if described["image_sha256"] != image.sha256:
            return "other image"
        done = (
            described["image"]["file"] == image.path.name
            and described["made_by"] == {"fusseg": VERSION, **making}
            and all(
                sha256(file.read_bytes()).hexdigest() == described[field]
                for file, field in zip(files[:-1], _DIGESTS, strict=True)
            )
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # Missing or damaged: it is made again, and a problem with the folder shows then.
        return "not done"
    return "done" if done else "not done"


def write_results(
    pixels: Pixels,
    found: Segmentation,
    image: SourceImage,
    files: tuple[Path, Path, Path],
    making: dict[str, Any],
) -> None:
    """Write the three files of an image; the description comes last and marks them complete.

    Args:
        pixels: RGB image; its memory is overwritten by the overlay.
        found: Its regions.
        image: The file that the pixels come from.
        files: Paths from `result_files`.
        making: Description from `describe_making`.

    Raises:
        DataError: As `blaming`.
    """
    index, painted, description = files
    colors = _color_table(found)
    contents = (
        _index_png(found.regions, colors),
        _overlay_jpeg(pixels, found.regions, colors),
    )
    described = describe_result(found, image, making) | {
        field: sha256(content).hexdigest()
        for field, content in zip(_DIGESTS, contents, strict=True)
    }
    text = json.dumps(described, indent=1, ensure_ascii=False)
    with blaming(files), _all_or_none(files):
        # An old description must never describe new regions, even if this process is killed.
        description.unlink(missing_ok=True)
        write_atomically(index, contents[0])
        write_atomically(painted, contents[1])
        write_atomically(description, text.encode())


@contextmanager
def _all_or_none(files: tuple[Path, Path, Path]) -> Iterator[None]:
    try:
        yield
    except OSError:
        for file in files:
            with suppress(OSError):
                file.unlink()
        raise


def check_folder(out: Path) -> None:
    """Create the output folder, and refuse one that is not writable.

    Raises:
        DataError: If it cannot be created or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror}; choose another --out") from error


def check_writable(files: tuple[Path, Path, Path]) -> None:
    """Refuse names that the file system does not accept, before computing anything.

    Raises:
        DataError: As `blaming`.
    """
    with blaming(files):
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            with suppress(FileNotFoundError):
                if S_ISDIR(file.lstat().st_mode):
                    raise IsADirectoryError(EISDIR, f"{file.name} is a folder")


def describe_result(
    found: Segmentation, image: SourceImage, making: dict[str, Any]
) -> dict[str, Any]:
    """Describe an image's regions; every field is in docs/predict.md."""
    height, width = found.regions.shape
    tiling, seen = found.seen.tiling, found.seen.size
    stride = seen[0] // tiling.size[0]
    return {
        "format_version": FORMAT_VERSION,
        "image": {"file": image.path.name, "height": height, "width": width},
        "image_sha256": image.sha256,
        "seen": {
            "height": seen[0],
            "width": seen[1],
            "tile_height": tiling.tile[0] * stride,
            "tile_width": tiling.tile[1] * stride,
            "tiles": tiling.num_tiles,
        },
        "regions": [
            {
                "index": area.region.index,
                "name": area.region.name,
                "color": hex_color(area.region.color),
                "clusters": list(area.region.clusters),
                "pixels": area.pixels,
                "share": area.share,
                "confidence": area.confidence,
            }
            for area in found.areas
        ],
        "made_by": {"fusseg": VERSION, **making},
    }


def _color_table(found: Segmentation) -> UInt8[np.ndarray, "colors 3"]:
    """List a color per index; unused indices of merged clusters are gray."""
    colors = found.colors
    return np.array([colors.get(index, UNASSIGNED) for index in range(max(colors) + 1)], np.uint8)


def _index_png(
    regions: UInt8[np.ndarray, "height width"], colors: UInt8[np.ndarray, "colors 3"]
) -> bytes:
    # A palette keeps the pixel values and lets any viewer show them in color.
    image = Image.fromarray(regions, mode="P")
    image.putpalette(colors.flatten().tolist())
    return _encode(image, "PNG")


def _overlay_jpeg(
    image: Pixels,
    regions: UInt8[np.ndarray, "height width"],
    colors: UInt8[np.ndarray, "colors 3"],
) -> bytes:
    """Tint the image strip by strip in its own memory, to avoid a second copy of a large image."""
    image = image if image.flags.writeable else image.copy()
    for start in range(0, len(image), _STRIP):
        stop = start + _STRIP
        # One more row, so that the border to the next strip is drawn too.
        strip = overlay(image[start : stop + 1], regions[start : stop + 1], colors)
        image[start:stop] = strip[:_STRIP]
    painted = Image.fromarray(image)
    if max(painted.size) > JPEG_SIDE:
        painted.thumbnail((JPEG_SIDE, JPEG_SIDE))
    return _encode(painted, "JPEG")


def _encode(image: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return content.getvalue()
