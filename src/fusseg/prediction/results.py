"""What a prediction leaves on disk: an index PNG, an overlay, and a description as JSON."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusseg.atomic import write_atomically
from fusseg.errors import DataError
from fusseg.prediction.segmenter import Segmentation, Segmenter
from fusseg.prediction.sources import result_files
from fusseg.prediction.tiling import Pixels
from fusseg.prediction.viewing import PredictOptions
from fusseg.regions import hex_color
from fusseg.report.colors import UNASSIGNED, overlay
from fusseg.version import VERSION

FORMAT_VERSION = 1
JPEG_SIDE = 65_500
"""A JPEG has no longer side; overlays of longer images are made smaller."""
_STRIP = 256


def describe_making(segmenter: Segmenter, options: PredictOptions) -> dict[str, Any]:
    """Say what results depend on besides the image: model, names and options.

    The batch is left out: it shifts sums by rounding at most.
    """
    return {
        "run": segmenter.name,
        "state": segmenter.digest,
        "round": segmenter.round_number,
        "site": segmenter.site,
        "regions": segmenter.regions.digest,
        "scale": options.scale,
        "tile": options.tile,
        "refine": options.refine,
    }


def is_done(source: Path, out: Path, place: Path, making: dict[str, Any]) -> bool:
    """Whether all results of an image are there, newer than it and made in the same way."""
    files = result_files(out, place)
    try:
        changed = source.stat().st_mtime_ns
        if any(file.stat().st_mtime_ns < changed for file in files):
            return False
        made_by = json.loads(files[-1].read_bytes())["made_by"]
    except (OSError, ValueError, KeyError, TypeError):
        # Missing or damaged: it is made anew, and whatever is wrong with the image shows then.
        return False
    return bool(made_by == {"fusseg": VERSION, **making})


def write_results(
    image: Pixels,
    found: Segmentation,
    source: Path,
    files: tuple[Path, Path, Path],
    making: dict[str, Any],
) -> None:
    """Write the three files of an image, the description last: with it all are there.

    Args:
        image: RGB; it is painted over.
        found: Its regions.
        source: Where the image comes from.
        files: As named by `result_files`.
        making: As said by `describe_making`.

    Raises:
        DataError: If a file cannot be written.
    """
    index, painted, description = files
    colors = _color_table(found)
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(index, _index_png(found.regions, colors))
        write_atomically(painted, _overlay_jpeg(image, found.regions, colors))
        content = json.dumps(describe_result(found, source, making), indent=1, ensure_ascii=False)
        write_atomically(description, content.encode())
    except OSError as error:
        raise DataError(f"cannot write {index.parent}: {error.strerror}") from error


def describe_result(found: Segmentation, source: Path, making: dict[str, Any]) -> dict[str, Any]:
    """Describe an image's regions; every field is in docs/predict.md."""
    height, width = found.regions.shape
    tiling, seen = found.seen.tiling, found.seen.size
    stride = seen[0] // tiling.size[0]
    return {
        "format_version": FORMAT_VERSION,
        "image": {"file": source.name, "height": height, "width": width},
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
