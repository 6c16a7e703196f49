"""Commands that extract and train."""

import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from fusseg.cli.progress import Display
from fusseg.cli.spreading import workers_at
from fusseg.config.file import load_config
from fusseg.config.schema import Config
from fusseg.data.findings import Finding
from fusseg.features.extraction import Progress
from fusseg.federation.state import ClientUpdate
from fusseg.runs.directory import REPORT, read_run_config
from fusseg.runs.engine import RoundDone, TrainingBegun
from fusseg.runs.prepare import prepare
from fusseg.runs.record_form import ModelScores, Record, RoundEntry
from fusseg.runs.trackers import Log, check_trackers, round_figures, track
from fusseg.runs.train import Event, Finished, run_experiment

Outcome = TypeVar("Outcome")

_STAGES = {"read": "reading images", "extract": "extracting features"}


def follow(stages: Generator[Progress | Finding, None, Outcome], display: Display) -> Outcome:
    """Show an extraction to its end and hand on what it returns."""
    while True:
        try:
            progress = next(stages)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        show_progress(progress, display)


def show_progress(progress: Progress | Finding, display: Display) -> None:
    """Show how far an extraction is, or what is doubtful about its images."""
    if isinstance(progress, Finding):
        display.line(f"{progress.severity}: {progress.subject}: {progress.message}")
        return
    display.advance(_STAGES[progress.stage], progress.done, progress.total)


def run_extract(
    config_path: Path, overrides: Sequence[str], cache: Path, dask: str | None = None
) -> None:
    """Extract what the cache lacks, here or on a Dask cluster, and say what was skipped."""
    config = load_config(config_path, overrides)
    with workers_at(dask, [cache], [config]) as workers, Display() as display:
        prepared = follow(prepare(config, cache, workers), display)
        for skipped in prepared.skipped:
            display.line(f"skipped {skipped.item.site}/{skipped.item.stem}: {skipped.reason}")
        display.line(f"the features are in {cache} ({prepared.seconds:.1f} s)")


def choose_settings(
    config_path: Path | None, overrides: Sequence[str], run_dir: Path | None
) -> Config | None:
    """Read the settings of a run: from a file, or from the run that it goes on from.

    Args:
        config_path: TOML file; None: none was given.
        overrides: On top of it, or of the run's settings.
        run_dir: Run that is resumed or started from; None: neither.

    Returns:
        None where a run is resumed with what it has.

    Raises:
        ConfigError: If the settings cannot be read, or an override is wrong.
    """
    if config_path is not None:
        return load_config(config_path, overrides)
    return read_run_config(run_dir, overrides) if overrides and run_dir is not None else None


def run_training(
    config: Config | None,
    run_dir: Path,
    cache: Path,
    *,
    resume: bool,
    trackers: Sequence[str] = (),
) -> None:
    """Train, score, write the report, and print where everything is."""
    check_trackers(trackers)
    with Display() as display, ExitStack() as stack:
        log: Log | None = None
        trainings = _Trainings(display)
        for event in run_experiment(config, run_dir, cache, resume=resume):
            trainings.show(event)
            if isinstance(event, TrainingBegun) and trackers:
                # Not before: the run directory and its configuration are there now.
                log = stack.enter_context(track(trackers, run_dir, read_run_config(run_dir)))
            if isinstance(event, RoundDone) and log is not None:
                log(event.entry["round"], round_figures(event.entry))
            if isinstance(event, Finished):
                shown = event.prepared.shown
                # Here and not above: drawing takes long to import, and a run can begin without it.
                from fusseg.report.gallery import write_report

                write_report(run_dir, event.config, event.record, event.saved, shown)
                for line in summary(event.record):
                    display.line(line)
                display.line(f"report: {run_dir / REPORT}")


def start_overrides(run_dir: Path, overrides: Sequence[str]) -> list[str]:
    """Make a new run start from a saved one's model, with its number of regions and channels.

    Args:
        run_dir: The saved run.
        overrides: Given ones; they stand above these.

    Raises:
        ConfigError: If it is no run directory.
    """
    model = read_run_config(run_dir).model
    return [
        f"model.start={json.dumps(str(run_dir), ensure_ascii=False)}",
        f"model.num_clusters={model.num_clusters}",
        f"model.code_dim={model.code_dim}",
        *overrides,
    ]


class _Trainings:
    """Counts client updates over all rounds, so that one bar tells the time left."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._done = self._total = self._rounds = 0

    def show(self, event: Event) -> None:
        if isinstance(event, Progress | Finding):
            show_progress(event, self._display)
        elif isinstance(event, TrainingBegun):
            self._done, self._total = event.updates_done, event.num_updates
            self._rounds = event.num_rounds
        elif isinstance(event, ClientUpdate):
            self._done += 1
            self._display.advance("training", self._done, self._total)
        elif isinstance(event, RoundDone):
            self._display.line(_describe(event.entry, self._rounds))


def _describe(entry: RoundEntry, num_rounds: int) -> str:
    text = f"round {entry['round']} of {num_rounds}"
    text += ": Lloyd step" if entry["loss"] is None else f": loss {entry['loss']:.4f}"
    if entry["mean_iou"] is not None:
        text += f", mIoU {entry['mean_iou']:.4f}, accuracy {entry['pixel_accuracy']:.4f}"
    return f"{text} ({entry['seconds']:.1f} s)"


def summary(record: Record) -> list[str]:
    """Sum up a finished run in a few lines."""
    final, seconds = record["final"], record["seconds"]
    lines = [
        f"skipped {skipped['site']}/{skipped['image']}: {skipped['reason']}"
        for skipped in record["skipped_images"]
    ]
    lines += [] if final is None else describe_final(final)
    lines.append(
        f"seconds: extraction {seconds['extract']:.1f}, training {seconds['train']:.1f}, "
        f"evaluation {seconds['evaluate']:.1f}"
    )
    return lines


def describe_final(final: ModelScores) -> list[str]:
    """Say how good the model is: scores, or the label-free figures where nothing is labeled."""
    if final["mean_iou"] is None:
        lines = ["no labels: scores are null"]
    else:
        lines = [f"mIoU {final['mean_iou']:.4f}, accuracy {final['pixel_accuracy']:.4f}"]
        for site, scores in final["sites"].items():
            lines.append(f"  {site}: mIoU {scores['mean_iou']:.4f} ({scores['num_images']} images)")
    quality = final["quality"]
    if quality is None:
        return lines
    lines.append(
        f"label-free: mean cosine to own centroid {quality['mean_cosine']:.3f}, margin to the "
        f"second {quality['mean_margin']:.3f}, largest cluster "
        f"{max(quality['cluster_share']):.0%} of the positions"
    )
    return lines
