"""Options that several commands take, and what they become; heavy imports wait as in `app`."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fusseg.core.visible_text import say

CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Feature cache; default: FUSSEG_CACHE, else the user's cache."),
]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Spread the work over this Dask cluster, such as tcp://host:8786; needs "
        "fusseg[cluster].",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")
]
RunArgument = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]
ConfigArgument = Annotated[Path, typer.Argument(help="TOML file.", show_default=False)]
NewOrResumedArgument = Annotated[
    Path | None, typer.Argument(help="TOML file; with --resume the run's own may be left out.")
]
RunDirOption = Annotated[
    Path | None, typer.Option("--out", help="Run directory; default: a new one under runs/.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
SiteOption = Annotated[
    str | None, typer.Option("--site", help="Whose model, where each site has its own.")
]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def this_command() -> str:
    """Spell out the command that is running, to be pasted into a shell."""
    return shlex.join(["fusseg", *sys.argv[1:]])


def cache_folder(option: Path | None) -> Path:
    """Find the feature cache: the option, else FUSSEG_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_path

    if option is not None:
        return option
    variable = os.environ.get("FUSSEG_CACHE")
    return Path(variable).expanduser() if variable else user_cache_path("fusseg")


def new_run_dir(config: Path | None, out: Path | None, *, resume: bool) -> Path:
    """Find the run directory: as given, else a new one named after the configuration."""
    if config is None and not (resume and out is not None):
        raise typer.BadParameter("give CONFIG.toml, or --resume with --out RUN_DIR")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out RUN_DIR: which run is to go on")
    if out is not None:
        return out
    assert config is not None
    return dated_run_dir(config.stem)


def dated_run_dir(name: str) -> Path:
    """Name a new run directory after what it is of, and the time."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def refuse_given(whose: str, options: Mapping[str, object]) -> None:
    """Refuse options that mean nothing here, where they were given."""
    given = [name for name, value in options.items() if value]
    if given:
        raise typer.BadParameter(f"{given[0]} is {whose} and means nothing here; leave it out")


@contextmanager
def stopped_with(message: str) -> Iterator[None]:
    """Say something at Ctrl-C, and exit as shells expect."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\n{message}", error=True)
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def interruptible(run_dir: Path, mend: str) -> Iterator[None]:
    """Say at Ctrl-C how a run goes on, and exit as shells expect."""
    try:
        yield
    except KeyboardInterrupt:
        begun = (run_dir / "config.toml").exists()
        say(f"\nstopped; go on with: {mend}" if begun else "\nstopped", error=True)
        raise SystemExit(INTERRUPTED) from None
