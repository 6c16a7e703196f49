"""Segment image files batch by batch, and skip those that are already done."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fusseg.core.errors import DataError, FussegError
from fusseg.core.files import UnwritableError
from fusseg.data.images import Decoding, decoding_of, raster_of, read_bytes, to_rgb
from fusseg.data.items import Item
from fusseg.data.stored import Stored, look_at
from fusseg.prediction.results import (
    SourceImage,
    check_folder,
    check_writable,
    describe_making,
    look_up_results,
    write_results,
)
from fusseg.prediction.segmentation import Segmentation
from fusseg.prediction.segmenter import Segmenter, segment_images
from fusseg.prediction.sources import result_files
from fusseg.prediction.tiling import Pixels, Track, untracked
from fusseg.prediction.viewing import PredictOptions

Place = tuple[Path, Path]
"""An image file, and the path of its results: relative to the output folder, without suffix."""


@dataclass(frozen=True)
class Predicted:
    """One image segmented and written."""

    source: Path
    stored: Stored
    """Content of its file."""
    replaced: bool = False
    """Whether it replaced the results of another image."""


@dataclass(frozen=True)
class AlreadyThere:
    """One image that already had results."""

    source: Path


@dataclass(frozen=True)
class NotPredicted:
    """One image that could not be read, segmented or written, and the reason."""

    source: Path
    reason: str


Outcome = Predicted | AlreadyThere | NotPredicted


def predict_images(
    segmenter: Segmenter,
    sources: Sequence[Place],
    out: Path,
    options: PredictOptions,
    *,
    again: bool = False,
    track: Track = untracked,
) -> Iterator[Outcome]:
    """Segment image files; each becomes an index PNG, an overlay JPEG and a JSON.

    Args:
        segmenter: Segmenter with its names.
        sources: Each image and the path of its results.
        out: Folder of the results.
        options: Scale, tiles and refinement.
        again: Whether to segment images again that are already done.
        track: Wraps the rows of tiles of each image that is segmented alone.

    Yields:
        The outcome of each image, in order except for those that are already done.

    Raises:
        DataError: If no result can be written.
    """
    check_folder(out)
    making, decoding = describe_making(segmenter, options), decoding_of(segmenter.data)
    batch: list[_Loaded] = []
    for source, place in sources:
        loaded = _load(source, result_files(out, place), making, decoding, again=again)
        if not isinstance(loaded, _Loaded):
            yield loaded
            continue
        batch.append(loaded)
        del loaded
        if len(batch) == options.batch:
            yield from _predict_batch(segmenter, batch, options, making, track)
    yield from _predict_batch(segmenter, batch, options, making, track)


@dataclass(frozen=True)
class _Loaded:
    """An image in memory, waiting to be segmented."""

    image: SourceImage
    pixels: Pixels
    stored: Stored
    files: tuple[Path, Path, Path]
    replaces: bool


def _load(
    source: Path,
    files: tuple[Path, Path, Path],
    making: dict[str, Any],
    decoding: Decoding,
    *,
    again: bool,
) -> _Loaded | AlreadyThere | NotPredicted:
    """Read an image, unless it is already done or its results could not be written."""
    item = Item(site="", stem=source.stem, split="", image=source)
    try:
        content = read_bytes(item)
    except DataError as error:
        return NotPredicted(source, str(error))
    image = SourceImage(source, sha256(content).hexdigest())
    known = look_up_results(image, files, making)
    if known == "done" and not again:
        return AlreadyThere(source)
    try:
        check_writable(files)
    except UnwritableError as error:
        return NotPredicted(source, str(error))
    try:
        # Decode the bytes that were hashed: the file may change in between.
        raster = raster_of(item, content)
    except DataError as error:
        return NotPredicted(source, str(error))
    stored = look_at(raster, decoding)
    return _Loaded(image, to_rgb(raster, decoding), stored, files, replaces=known == "other image")


def _predict_batch(
    segmenter: Segmenter,
    batch: list[_Loaded],
    options: PredictOptions,
    making: dict[str, Any],
    track: Track,
) -> Iterator[Outcome]:
    """Segment images, write their results, and empty the list."""
    together: list[Segmentation] = []
    if len(batch) > 1:
        # If the batch fails, each image is segmented alone and reports its own error.
        with suppress(FussegError):
            together = segment_images(segmenter, [one.pixels for one in batch], options)
    while batch:
        # Release each image once it is written: there may be room for only one large image.
        one = batch.pop(0)
        source = one.image.path
        try:
            if together:
                found = together.pop(0)
            else:
                found = segment_images(segmenter, [one.pixels], options, track)[0]
        except FussegError as error:
            yield NotPredicted(source, str(error))
            continue
        try:
            write_results(one.pixels, found, one.image, one.files, making)
        except UnwritableError as error:
            yield NotPredicted(source, str(error))
            continue
        yield Predicted(source, one.stored, one.replaces)
