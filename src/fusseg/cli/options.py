"""Options and arguments that several commands share, and what the commands make of them.

Heavy modules are imported inside the functions that need them, so that `--help` stays quick.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fusseg.config.schema import Config

CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="Feature cache; default: FUSSEG_CACHE, else the user's cache folder."
    ),
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
    list[str] | None,
    typer.Option("--set", help="Override a setting: section.key=value; can be repeated."),
]
PresetOption = Annotated[
    str,
    typer.Option(
        help="Settings in place of the defaults: paper for those of arXiv 2505.23292. Keys that "
        "CONFIG.toml or --set sets win."
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]
ConfigArgument = Annotated[Path, typer.Argument(help="TOML file.", show_default=False)]
NewOrResumedArgument = Annotated[
    Path | None, typer.Argument(help="TOML file; with --resume the default is the run's own.")
]
RunDirOption = Annotated[
    Path | None, typer.Option("--out", help="Run directory; default: a new one under runs/.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
SiteOption = Annotated[
    str | None, typer.Option("--site", help="Use this site's model, if each site has its own.")
]
RegionsOption = Annotated[
    bool,
    typer.Option("--regions", help="Use label-free regions, though the run was taught classes."),
]
WithSitesOption = Annotated[
    bool, typer.Option("--with-sites", help="Name the training sites, with their image counts.")
]


def this_command() -> str:
    """Write the running command as a line that can be pasted into a shell."""
    return shlex.join(["fusseg", *sys.argv[1:]])


def cache_folder(option: Path | None) -> Path:
    """Find the feature cache: the option, else FUSSEG_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_path

    if option is not None:
        return option
    variable = os.environ.get("FUSSEG_CACHE")
    return Path(variable).expanduser() if variable else user_cache_path("fusseg")


def choose_settings(
    config_path: Path | None,
    overrides: Sequence[str],
    run_dir: Path | None,
    preset: str = "default",
) -> "Config | None":
    """Read the settings of a run: from a file, or from the run that it continues.

    Args:
        config_path: TOML file, or None if none was given.
        overrides: Values of `--set`; they override the file, or the settings of the run.
        run_dir: Run to resume or to start from, or None.
        preset: Name of the settings for keys that neither sets. The settings of a run set every
            key, so that its preset overrides them: a run resumed with another one is refused.

    Returns:
        The settings, or None for a resumed run that keeps its own.

    Raises:
        ConfigError: If the settings cannot be read, or an override or the preset is wrong.
    """
    from fusseg.config.file import flatten, load_config
    from fusseg.config.presets import find_preset
    from fusseg.runs.directory import read_run_config

    if config_path is not None:
        return load_config(config_path, overrides, preset)
    settings = flatten(find_preset(preset)).items()
    overrides = [*(f"{key}={json.dumps(value)}" for key, value in settings), *overrides]
    return read_run_config(run_dir, overrides) if overrides and run_dir is not None else None


def new_run_dir(config: Path | None, out: Path | None, *, resume: bool) -> Path:
    """Choose the run directory: the given one, else a new one named after the configuration."""
    if config is None and not (resume and out is not None):
        raise typer.BadParameter("give CONFIG.toml, or --resume with --out RUN_DIR")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out RUN_DIR, the run to continue")
    if out is not None:
        return out
    assert config is not None
    return dated_run_dir(config.stem)


def dated_run_dir(name: str) -> Path:
    """Name a new run directory after a configuration or run, and the current time."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
