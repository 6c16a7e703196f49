"""The command `fusseg run`: train a federation in this process and write its report."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fusseg.cli.progress import Display, show_extraction
from fusseg.cli.summaries import describe_run
from fusseg.config.schema import Config
from fusseg.data.findings import Finding
from fusseg.features.extraction import Progress
from fusseg.federation.judge import CHOICE
from fusseg.federation.lloyd_steps import FINISH
from fusseg.federation.pca_start import START
from fusseg.federation.state import ClientUpdate, Total
from fusseg.federation.teaching import TEACH
from fusseg.runs.directory import REPORT, read_run_config
from fusseg.runs.engine import RoundDone, TrainingBegun
from fusseg.runs.record_form import RoundEntry
from fusseg.runs.trackers import Log, check_trackers, round_figures, track
from fusseg.runs.train import Event, Finished, run_experiment


def start_overrides(run_dir: Path, overrides: Sequence[str]) -> list[str]:
    """Make a new run start from a saved model, with its number of regions and channels.

    No start is computed, so no component can be whitened.

    Args:
        run_dir: Run directory of the saved model.
        overrides: Values of `--set`; they take precedence.

    Returns:
        All overrides of the new run.

    Raises:
        ConfigError: If the folder is not a run directory.
    """
    model = read_run_config(run_dir).model
    return [
        f"model.start={json.dumps(str(run_dir), ensure_ascii=False)}",
        f"model.num_clusters={model.num_clusters}",
        f"model.code_dim={model.code_dim}",
        "model.whitening=0",
        *overrides,
    ]


def run_training(
    config: Config | None,
    run_dir: Path,
    cache: Path,
    *,
    resume: bool,
    trackers: Sequence[str] = (),
) -> None:
    """Train, score, write the report, and print where everything is.

    Args:
        config: Settings; None: those of the resumed run.
        run_dir: Run directory.
        cache: Feature cache.
        resume: Continue the run in the directory.
        trackers: Names of the trackers to log to.

    Raises:
        FussegError: If the settings, the data or the run directory cannot be used.
    """
    check_trackers(trackers)
    with Display() as display, ExitStack() as stack:
        log: Log | None = None
        training = _TrainingDisplay(display)
        for event in run_experiment(config, run_dir, cache, resume=resume):
            training.show(event)
            if isinstance(event, TrainingBegun) and trackers:
                # Only now do the run directory and its configuration exist.
                log = stack.enter_context(track(trackers, run_dir, read_run_config(run_dir)))
            if isinstance(event, RoundDone) and log is not None:
                log(event.entry["round"], round_figures(event.entry))
            if isinstance(event, Finished):
                # Imported late, because drawing takes long to import and a run begins without it.
                from fusseg.report.gallery import write_report

                shown = event.prepared.shown
                write_report(run_dir, event.config, event.record, event.saved, shown)
                for line in describe_run(event.record):
                    display.line(line)
                display.line(f"report: {run_dir / REPORT}")


class _TrainingDisplay:
    """Counts client updates over all rounds, so that one bar shows the time left."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._done = self._started = self._total = self._rounds = 0

    def show(self, event: Event) -> None:
        if isinstance(event, Progress | Finding):
            show_extraction(event, self._display)
        elif isinstance(event, TrainingBegun):
            self._done, self._total = event.updates_done, event.num_updates
            self._started = event.start_updates
            self._rounds = event.num_rounds
        elif isinstance(event, ClientUpdate | Total):
            self._done += len(event.client_ids) if isinstance(event, Total) else 1
            # Apart from training: its updates take a fraction of the time.
            if self._done <= self._started:
                self._display.advance("start", self._done, self._started, "updates")
            else:
                done, total = self._done - self._started, self._total - self._started
                self._display.advance("training", done, total, "updates")
        elif isinstance(event, RoundDone):
            self._display.line(_describe_round(event.entry, self._rounds))


def _describe_round(entry: RoundEntry, num_rounds: int) -> str:
    text = f"round {entry['round']} of {num_rounds}"
    if entry["phase"] == START:
        text = "start: federated PCA"
    elif entry["phase"] == CHOICE:
        text = "choice between start and trained model"
    elif entry["phase"] == TEACH:
        text = "classes taught by labels"
    else:
        # With noise, and in a round that was closed unused, no loss is known.
        unknown = ": Lloyd step" if entry["phase"] == FINISH else ""
        text += unknown if entry["loss"] is None else f": loss {entry['loss']:.4f}"
    if entry["mean_iou"] is not None:
        text += f", mIoU {entry['mean_iou']:.4f}, accuracy {entry['pixel_accuracy']:.4f}"
    return f"{text} ({entry['seconds']:.1f} s)"
