"""Segment images with a trained run, each at its own size."""

import io
import math
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
from fusseg.errors import DataError, FussegError
from fusseg.report.colors import overlay, palette
from fusseg.segmentation.segmenter import Segmenter, assign, encode, similarities
from fusseg.trained_run import TrainedRun

MAX_AREA = 8
"""Pixels that the backbone sees of one image, in multiples of the training size."""


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
    one size only. Long and thin images are seen smaller, at `MAX_AREA` times the training size.

    Args:
        image: RGB.
        run: Backbone and scale.
        segmenter: One of the run's.

    Raises:
        DataError: If the backbone's features are not finite.
    """
    data, stride = run.config.data, run.backbone.stride
    size = data.image_size
    if data.fit == "crop" and run.backbone.image_size is None:
        cover = max(size[0] / image.shape[0], size[1] / image.shape[1])
        largest = math.sqrt(MAX_AREA * size[0] * size[1] / (image.shape[0] * image.shape[1]))
        scale = min(cover, largest)
        size = (round(image.shape[0] * scale), round(image.shape[1] * scale))
    height, width = (max(stride, round(side / stride) * stride) for side in size)
    seen = fit_image(image, (height, width), "stretch", data.interpolation)
    with torch.inference_mode():
        features = run.backbone.extract(torch.from_numpy(seen)[None])[0].permute(1, 2, 0)
    # Rounded as in the cache, so that a prediction is what the evaluation saw.
    rounded = features.half().float()
    if not bool(rounded.isfinite().all()):
        raise DataError("the backbone's features are not finite in float16")
    scores = similarities(segmenter, encode(segmenter, rounded))
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
            regions = segment_image(image, run, segmenter)
        except FussegError as error:
            yield NotPredicted(source, str(error))
            continue
        done = Predicted(source, *_results(out, place))
        try:
            done.regions.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(done.regions, _index_png(regions, colors))
            write_atomically(done.overlay, _encode(overlay(image, regions, colors), "JPEG"))
        except OSError as error:
            raise DataError(f"cannot write to {out}: {error.strerror}") from error
        yield done


def find_images(inputs: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """List the images of files and folders, with the relative place of each result.

    Files keep their stem; images of a folder, however deep, keep their path below it. What lies in
    the folder of the results is no input.

    Args:
        inputs: Image files and folders of them.
        out: Folder of the results.

    Raises:
        DataError: If an input is not there or holds no image, two results would share a name, or a
            result would overwrite an image.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        if entry.is_dir():
            images = _images_below(entry, out)
            if not images:
                raise DataError(f"no image in {entry}; known are {', '.join(SUFFIXES)}")
            found += [(path, path.relative_to(entry).with_suffix("")) for path in images]
        elif entry.exists():
            found.append((entry, Path(entry.stem)))
        else:
            raise DataError(f"no such file or folder: {entry}")
    _check_places(found, out)
    return found


def _images_below(folder: Path, out: Path) -> list[Path]:
    results = out.resolve()
    inside = results != folder.resolve()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not (inside and path.resolve().is_relative_to(results))
    ]


def _check_places(found: Sequence[tuple[Path, Path]], out: Path) -> None:
    sources = {source.resolve(): source for source, _ in found}
    taken: dict[Path, Path] = {}
    for source, place in found:
        if place in taken:
            raise DataError(
                f"{taken[place]} and {source} would both be written to {place}.png; predict them "
                "into different folders"
            )
        taken[place] = source
        for result in _results(out, place):
            if result.resolve() in sources:
                raise DataError(
                    f"the result of {source} would overwrite the image {result}; choose another "
                    "--out"
                )


def _results(out: Path, place: Path) -> tuple[Path, Path]:
    return out / f"{place}.png", out / f"{place}.overlay.jpg"


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
