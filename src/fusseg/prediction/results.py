"""What a prediction leaves on disk: an index PNG, an overlay, and a description as JSON."""

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
from fusseg.core.atomic import write_atomically
from fusseg.core.colors import UNASSIGNED, overlay
from fusseg.core.errors import DataError
from fusseg.core.unwritable import blaming
from fusseg.core.version import VERSION
from fusseg.prediction.segmentation import Segmentation
from fusseg.prediction.segmenter import Segmenter
from fusseg.prediction.tiling import Pixels
from fusseg.prediction.viewing import PredictOptions
from fusseg.runs.regions import hex_color

FORMAT_VERSION = 1
JPEG_SIDE = 65_500
"""A JPEG has no longer side; overlays of longer images are made smaller."""
_STRIP = 256
_DIGESTS = ("png_sha256", "overlay_sha256")
"""Fields of the description for the files beside it."""


@dataclass(frozen=True)
class SourceImage:
    """An image file, known by its bytes."""

    path: Path
    sha256: str
    """Of the file, hex."""


def describe_making(segmenter: Segmenter, options: PredictOptions) -> dict[str, Any]:
    """Say what results depend on besides the image: model, its view of images, names and options.

    The batch is left out: it shifts sums by rounding at most.
    """
    return {
        "run": segmenter.name,
        "state": segmenter.digest,
        "round": segmenter.round_number,
        "site": segmenter.site,
        "regions": segmenter.regions.digest,
        # As JSON gives it back, to compare: lists for tuples.
        **json.loads(json.dumps({name: getattr(segmenter.data, name) for name in SEEN})),
        "scale": options.scale,
        "tile": options.tile,
        "refine": options.refine,
    }


Known = Literal["done", "other image", "not done"]
"""What is known of the results of an image: that they are its own and whole, that they are those of
another image, or neither."""


def look_up_results(
    image: SourceImage, files: tuple[Path, Path, Path], making: dict[str, Any]
) -> Known:
    """Tell whether results are whole, of this image, and made in this way.

    Args:
        image: Its name and its bytes count.
        files: As named by `result_files`.
        making: As said by `describe_making`.
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
        # Missing or damaged: it is made anew, and whatever is wrong with the folder shows then.
        return "not done"
    return "done" if done else "not done"


def write_results(
    pixels: Pixels,
    found: Segmentation,
    image: SourceImage,
    files: tuple[Path, Path, Path],
    making: dict[str, Any],
) -> None:
    """Write the three files of an image, the description last: with it all are there.

    Args:
        pixels: RGB; it is painted over.
        found: Its regions.
        image: Where the pixels come from.
        files: As named by `result_files`.
        making: As said by `describe_making`.

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
        # An old description must not stand beside new regions, even if this process is killed.
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
    """Make the folder of the results, and refuse one that nothing can be written to.

    Raises:
        DataError: If it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror}; choose another --out") from error


def check_writable(files: tuple[Path, Path, Path]) -> None:
    """Refuse names that the file system does not take, before anything is computed for them.

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
    """List a color per index; those of merged clusters do not occur and are gray."""
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
    """Tint the image strip by strip, in its own memory: another copy of a large one is too much."""
    image = image if image.flags.writeable else image.copy()
    for start in range(0, len(image), _STRIP):
        stop = start + _STRIP
        # One row more, so that the border to the next strip is drawn as well.
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
