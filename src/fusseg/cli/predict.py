"""The command `fusseg predict`: segment images of any size."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusseg.cli.progress import Display
from fusseg.cli.summaries import describe_finding, describe_unfinished
from fusseg.data.images import decoding_of
from fusseg.data.stored import judge_unlike
from fusseg.prediction.batches import AlreadyThere, NotPredicted, Predicted, predict_images
from fusseg.prediction.segmenter import Segmenter
from fusseg.prediction.sources import find_images
from fusseg.prediction.tiling import Bands
from fusseg.prediction.viewing import PredictOptions, view_image
from fusseg.runs.directory import read_run_config

LARGE = 5
"""Number of rows of tiles above which progress is printed without a terminal."""


def run_predict(
    run_dir: Path,
    images: Sequence[Path],
    out: Path,
    loaded: Mapping[str, Any],
    chosen: Mapping[str, Any],
    *,
    again: bool,
) -> bool:
    """Segment images and print what was skipped.

    Args:
        run_dir: Run directory, or a file that `fusseg pack` wrote.
        images: Files, folders and patterns.
        out: Folder of the results.
        loaded: Arguments of `Segmenter.load`: `site`, `backbone` and `regions`.
        chosen: Fields of `PredictOptions`.
        again: Also segment images that are already done.

    Returns:
        False if an image was skipped.

    Raises:
        FussegError: If the model, an option or a path cannot be used.
    """
    options = PredictOptions(**chosen)
    segmenter = Segmenter.load(run_dir, **loaded)
    # A tile or scale that suits no image is refused once here, not again for every image.
    view_image(segmenter.data.image_size, segmenter.data, segmenter.backbone, options)
    sources = find_images(images, out)
    already_done = skipped = 0
    predicted: list[Predicted] = []
    with Display() as display:

        def track(bands: Bands, number: int) -> Bands:
            return _tracked(bands, number, display)

        outcomes = predict_images(segmenter, sources, out, options, again=again, track=track)
        for done, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, NotPredicted):
                skipped += 1
                display.line(f"skipped {outcome.source}: {outcome.reason}")
            elif isinstance(outcome, Predicted):
                predicted.append(outcome)
            already_done += isinstance(outcome, AlreadyThere)
            display.advance("segmenting", done, len(sources), "images")
        for line in _remarks(predicted, already_done, segmenter):
            display.line(line)
        # A model file does not know how many rounds were planned.
        if run_dir.is_dir():
            for line in describe_unfinished(segmenter.round_number, read_run_config(run_dir)):
                display.line(line)
        display.line(f"{len(sources) - skipped} of {len(sources)} images are in {out}")
    return skipped == 0


def _remarks(
    predicted: Sequence[Predicted], already_done: int, segmenter: Segmenter
) -> Iterator[str]:
    """Describe what is doubtful about the images, and what was done or replaced."""
    stored = [outcome.stored for outcome in predicted]
    for finding in judge_unlike(stored, segmenter.stored_values, decoding_of(segmenter.data)):
        yield describe_finding(finding)
    if already_done:
        yield f"{already_done} were already done; --again segments them again"
    replaced = sum(outcome.replaced for outcome in predicted)
    if replaced:
        yield (
            "replaced results of other images of the same name, or of earlier content of these "
            f"images: {replaced}"
        )


def _tracked(bands: Bands, number: int, display: Display) -> Bands:
    """Show the progress of a large image; a small one has a single band."""
    for done, band in enumerate(bands, 1):
        yield band
        if number > 1:
            display.advance("rows of tiles", done, number, lines=number > LARGE)
