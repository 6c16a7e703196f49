"""Logging the figures of each round to TensorBoard, MLflow or Weights & Biases."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from fusseg.config.file import flatten
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.core.visible_text import say

Log = Callable[[int, Mapping[str, float]], None]
"""Function that logs a round, given its number and its figures."""
FOLDER = "tensorboard"
"""Folder of TensorBoard's files, in the run directory."""
_FIGURES = ("loss", "mean_iou", "pixel_accuracy", "seconds", "bytes_up", "bytes_down")


@contextmanager
def track(names: Sequence[str], run_dir: Path, config: Config) -> Iterator[Log]:
    """Open trackers, and provide a function that logs a round to all of them.

    A failing tracker does not stop the run: it is reported on stderr with the reason, and not used
    any more.

    Args:
        names: Keys of `TRACKERS`.
        run_dir: Run directory, whose name is that of the run.
        config: Settings, which are logged once.
    """
    with ExitStack() as stack:
        live: dict[str, Log] = {}
        for name in names:
            with _tolerated(name, live):
                live[name] = stack.enter_context(_closed_quietly(name, run_dir, config))

        def log(round_number: int, figures: Mapping[str, float]) -> None:
            for name in list(live):
                with _tolerated(name, live):
                    live[name](round_number, figures)

        yield log


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers are known and installed, before a run starts.

    Raises:
        ConfigError: If one is unknown or not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"unknown tracker {name!r}; {nearest_name(name, TRACKERS)}")
        if find_spec(name) is None:
            raise ConfigError(
                f"--track {name} needs a package that is not installed: "
                "pip install 'fusseg[trackers]'"
            )


def round_figures(entry: Mapping[str, object]) -> dict[str, float]:
    """Select the figures of a round's entry in the record; null values are left out."""
    figures = {name: entry[name] for name in _FIGURES if name in entry}
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}


@contextmanager
def _tensorboard(run_dir: Path, config: Config) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run_dir / FOLDER)) as writer:
        rows = [f"| {key} | {value} |" for key, value in _settings(config).items()]
        writer.add_text("settings", "\n".join(["| key | value |", "|---|---|", *rows]))

        def log(round_number: int, figures: Mapping[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, round_number)
            writer.flush()

        yield log


@contextmanager
def _mlflow(run_dir: Path, config: Config) -> Iterator[Log]:
    import mlflow

    mlflow.set_experiment("fusseg")
    with mlflow.start_run(run_name=run_dir.name):
        mlflow.log_params(_settings(config))
        yield lambda round_number, figures: mlflow.log_metrics(dict(figures), step=round_number)


@contextmanager
def _wandb(run_dir: Path, config: Config) -> Iterator[Log]:
    import wandb

    settings = _settings(config)
    with wandb.init(project="fusseg", name=run_dir.name, dir=str(run_dir), config=settings) as run:
        yield lambda round_number, figures: run.log(dict(figures), step=round_number)


TRACKERS: dict[str, Callable[[Path, Config], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
"""Trackers by the name of their package, as in `--track`. Their own environment variables decide
where they write."""


@contextmanager
def _closed_quietly(name: str, run_dir: Path, config: Config) -> Iterator[Log]:
    """Open a tracker; an error while it is closed is only reported."""
    opened = TRACKERS[name](run_dir, config)
    log = opened.__enter__()
    try:
        yield log
    finally:
        with _tolerated(name, {}):
            opened.__exit__(*sys.exc_info())


@contextmanager
def _tolerated(name: str, live: dict[str, Log]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        live.pop(name, None)
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        say(f"tracker {name} failed and is left out: {reason}", error=True)


def _settings(config: Config) -> dict[str, str]:
    return {key: str(value) for key, value in flatten(dataclasses.asdict(config)).items()}
