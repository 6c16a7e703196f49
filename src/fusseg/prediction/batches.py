"""Segment image files one batch after the other, and skip what is done already."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusseg.data.images import load_image
from fusseg.data.items import Item
from fusseg.errors import DataError, FussegError
from fusseg.prediction.results import describe_making, is_done, write_results
from fusseg.prediction.segmenter import Segmenter, segment_images
from fusseg.prediction.sources import result_files
from fusseg.prediction.tiling import Pixels, Track, untracked
from fusseg.prediction.viewing import PredictOptions

Place = tuple[Path, Path]
"""An image file, and where its results go: a path below the folder of results, without suffix."""


@dataclass(frozen=True)
class Predicted:
    """One image segmented and written."""

    source: Path


@dataclass(frozen=True)
class AlreadyThere:
    """One image whose results were there."""

    source: Path


@dataclass(frozen=True)
class NotPredicted:
    """One image that could not be read or segmented, and why."""

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
        segmenter: With its names.
        sources: Each image and where it goes.
        out: Folder of the results.
        options: Scale, tiles and refinement.
        again: Segment also what is done already.
        track: Wraps the rows of tiles of each image that is segmented alone.

    Yields:
        What became of each image, in their order but for those that are done already.

    Raises:
        DataError: If a result cannot be written.
    """
    making = describe_making(segmenter, options)
    left = []
    for source, place in sources:
        if not again and is_done(source, out, place, making):
            yield AlreadyThere(source)
        else:
            left.append((source, place))
    for start in range(0, len(left), options.batch):
        batch = left[start : start + options.batch]
        yield from _predict_batch(segmenter, batch, out, options, track)


def _predict_batch(
    segmenter: Segmenter,
    sources: Sequence[Place],
    out: Path,
    options: PredictOptions,
    track: Track,
) -> Iterator[Outcome]:
    making = describe_making(segmenter, options)
    loaded: list[tuple[Place, Pixels]] = []
    for source, place in sources:
        try:
            item = Item(site="", stem=source.stem, split="", image=source)
            loaded.append(((source, place), load_image(item)))
        except DataError as error:
            yield NotPredicted(source, str(error))
    try:
        images = [image for _, image in loaded]
        together = segment_images(segmenter, images, options) if len(images) > 1 else []
    except FussegError:
        together = []
    del images
    while loaded:
        # Let go of every image once it is written: a large one is all that there is room for.
        (source, place), image = loaded.pop(0)
        try:
            if together:
                found = together.pop(0)
            else:
                found = segment_images(segmenter, [image], options, track)[0]
        except FussegError as error:
            yield NotPredicted(source, str(error))
            continue
        write_results(image, found, source, result_files(out, place), making)
        yield Predicted(source)
