"""The command `fusseg teach`: make classes of a few labels."""

from collections.abc import Iterator
from pathlib import Path

from fusseg.cli.progress import Display, follow
from fusseg.cli.summaries import describe_taught
from fusseg.config.schema import TeachConfig
from fusseg.runs.record_form import Record
from fusseg.runs.teach import LabelSource, TaughtRun, teach_run


def run_teach(run_dir: Path, source: LabelSource, settings: TeachConfig, cache: Path) -> None:
    """Teach a run classes, print what was taught, and say how to go on.

    Args:
        run_dir: Run directory.
        source: Folder of labels, or table of clicks.
        settings: Shrinkage, smallest posterior, and list of images.
        cache: Feature cache.

    Raises:
        FussegError: If the run or the labels cannot be used.
    """
    with Display() as display:
        taught = follow(teach_run(run_dir, source, settings, cache), display)
        for line in _describe(taught):
            display.line(line)
        display.line(
            f"fusseg predict, export, pack and report use the classes of {run_dir} from now on; "
            f"their colors are in {run_dir / 'classes.toml'}"
        )


def _describe(taught: TaughtRun) -> Iterator[str]:
    if taught.labeled_held_out:
        yield (
            f"not scored: {taught.labeled_held_out} held-out images, which are among the labeled "
            "ones"
        )
    yield from describe_taught(taught.entry)
    for name, iou in (taught.entry["per_class_iou"] or {}).items():
        yield f"  {name}: " + ("not in the labels" if iou is None else f"IoU {iou:.4f}")
    yield from _compare(taught.record)


def _compare(record: Record) -> Iterator[str]:
    """Recall the score by regions, which no label was needed for."""
    final = record["final"]
    if final is not None and final["mean_iou"] is not None:
        yield f"by regions, without labels: mIoU {final['mean_iou']:.4f}"
