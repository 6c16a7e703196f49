"""Segment images with a trained run, each at its own size."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from fusseg.atomic import write_atomically
from fusseg.data.images import SUFFIXES, fit_image, load_image
from fusseg.data.items import Item
from fusseg.errors import DataError
from fusseg.report.colors import overlay, palette
from fusseg.segmentation.segmenter import Segmenter, assign, encode, similarities
from fusseg.trained_run import TrainedRun


@dataclass(frozen=True)
class Predicted:
    """One image segmented and written."""

    source: Path
    regions: Path
    """Index PNG: pixel = region."""
    overlay: Path


@dataclass(frozen=True)
class NotPredicted:
    """One image that could not be read, and why."""

    source: Path
    reason: str


def segment_image(
    image: UInt8[np.ndarray, "height width 3"], run: TrainedRun, segmenter: Segmenter
) -> UInt8[np.ndarray, "height width"]:
    """Segment a whole image at its own size.

    The backbone sees it at the scale of training: as large as it needs to be to cover the training
    size (`fit = "crop"`, but nothing is cut off), or stretched to it, as for a backbone that takes
    one size only.

    Args:
        image: RGB.
        run: Backbone and scale.
        segmenter: One of the run's.
    """
    data, stride = run.config.data, run.backbone.stride
    size = data.image_size
    if data.fit == "crop" and run.backbone.image_size is None:
        scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
        size = (round(image.shape[0] * scale), round(image.shape[1] * scale))
    height, width = (max(stride, round(side / stride) * stride) for side in size)
    seen = fit_image(image, (height, width), "stretch", data.interpolation)
    with torch.inference_mode():
        features = run.backbone.extract(torch.from_numpy(seen)[None])[0].permute(1, 2, 0)
    # Rounded as in the cache, so that a prediction is what the evaluation saw.
    scores = similarities(segmenter, encode(segmenter, features.half().float()))
    return assign(scores, (image.shape[0], image.shape[1])).numpy()


def predict_images(
    run: TrainedRun, segmenter: Segmenter, sources: Iterable[tuple[Path, Path]], out: Path
) -> Iterator[Predicted | NotPredicted]:
    """Segment image files; each becomes an index PNG and an overlay JPEG.

    Args:
        run: A trained run.
        segmenter: One of the run's.
        sources: Each image and where it goes: a path below `out`, without suffix.
        out: Folder of the results.

    Yields:
        What was written, or why an image was skipped.

    Raises:
        DataError: If a result cannot be written.
    """
    colors = palette(segmenter.num_clusters)
    for source, place in sources:
        try:
            image = load_image(Item(site="", stem=source.stem, split="", image=source))
        except DataError as error:
            yield NotPredicted(source, str(error))
            continue
        regions = segment_image(image, run, segmenter)
        done = Predicted(source, out / f"{place}.png", out / f"{place}.overlay.jpg")
        try:
            done.regions.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(done.regions, _index_png(regions, colors))
            write_atomically(done.overlay, _encode(overlay(image, regions, colors), "JPEG"))
        except OSError as error:
            raise DataError(f"cannot write to {out}: {error.strerror}") from error
        yield done


def find_images(inputs: Sequence[Path]) -> list[tuple[Path, Path]]:
    """List the images of files and folders, with the relative place of each result.

    Files keep their stem; images of a folder, however deep, keep their path below it.

    Raises:
        DataError: If an input is not there, holds no image, or two results would share a name.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        if entry.is_dir():
            images = [
                path
                for path in sorted(entry.rglob("*"))
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            ]
            if not images:
                raise DataError(f"no image in {entry}; known are {', '.join(SUFFIXES)}")
            found += [(path, path.relative_to(entry).with_suffix("")) for path in images]
        elif entry.exists():
            found.append((entry, Path(entry.stem)))
        else:
            raise DataError(f"no such file or folder: {entry}")
    taken: dict[Path, Path] = {}
    for source, place in found:
        if place in taken:
            raise DataError(
                f"{taken[place]} and {source} would both be written to {place}.png; predict them "
                "into different folders"
            )
        taken[place] = source
    return found


def _index_png(
    regions: UInt8[np.ndarray, "height width"], colors: UInt8[np.ndarray, "clusters 3"]
) -> bytes:
    # A palette keeps the pixel values and lets any viewer show them in color.
    image = Image.fromarray(regions, mode="P")
    image.putpalette(colors.flatten().tolist())
    return _encode(image, "PNG")


def _encode(image: Image.Image | np.ndarray, kind: str) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return content.getvalue()
