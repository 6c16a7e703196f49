"""The command `fusseg report`: the page of a run, or one page that compares runs."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePath
from string import ascii_uppercase
from urllib.parse import quote

from fusseg.cli.output_files import write_page
from fusseg.cli.progress import Display, follow
from fusseg.core.errors import ConfigError, DataError, FussegError
from fusseg.core.visible_text import say
from fusseg.runs.directory import REPORT, load_record, read_run_config
from fusseg.runs.finished_rounds import check_same_round
from fusseg.runs.prepare import prepare
from fusseg.runs.record_form import Record
from fusseg.runs.saved_state import load_state, state_round


def run_report(run_dir: Path, cache: Path) -> bool:
    """Write the report again and print where it is.

    Returns:
        False if the report has no pictures.

    Raises:
        FussegError: If the folder is not a run directory, its record and its state are from
            different rounds, or its data cannot be used and a report already exists.
    """
    config, record = read_run_config(run_dir), _load_record(run_dir)
    saved, shown = None, None
    with Display() as display:
        try:
            saved, shown = load_state(run_dir), follow(prepare(config, cache), display).shown
        except FussegError as error:
            if (run_dir / REPORT).exists():
                raise type(error)(
                    f"{error}; {run_dir / REPORT} is kept as it was; delete it to get one without "
                    "pictures"
                ) from error
            display.line(f"the report has no pictures: {error}")
        # Imported late, because drawing takes long to import and comparing does not draw.
        from fusseg.report.gallery import write_report

        write_report(run_dir, config, record, saved, shown)
        display.line(f"report: {run_dir / REPORT}")
    return shown is not None


def run_comparison(run_dirs: Sequence[Path], out: Path) -> None:
    """Write one page that compares runs and print where it is.

    Args:
        run_dirs: At least two run directories.
        out: HTML file to write.

    Raises:
        ConfigError: If a folder is not a run directory or is given twice, or there are too many.
        DataError: If a record cannot be read or is from another round than its state, or the page
            cannot be written.
    """
    if len(run_dirs) > len(ascii_uppercase):
        raise ConfigError(
            f"at most {len(ascii_uppercase)} runs can be compared, got {len(run_dirs)}; give fewer"
        )
    resolved = [run_dir.resolve() for run_dir in run_dirs]
    for place, run_dir in enumerate(resolved):
        if run_dir in resolved[:place]:
            raise ConfigError(f"{run_dirs[place]} is given twice; name each run once")
    from fusseg.report.compare_page import render_comparison
    from fusseg.report.comparison import ComparedRun

    runs = [
        ComparedRun(
            key=ascii_uppercase[place],
            name=name,
            config=read_run_config(run_dir),
            record=_load_record(run_dir),
            link=_link(run_dir, out),
        )
        for place, (run_dir, name) in enumerate(zip(run_dirs, _names(resolved), strict=True))
    ]
    command = shlex.join(["fusseg", "report", *map(str, run_dirs), "--out", str(out)])
    write_page(out, render_comparison(runs, command))
    say(f"comparison: {out}")


def _load_record(run_dir: Path) -> Record:
    """Read a record, and refuse one from another round than the state beside it."""
    record = load_record(run_dir)
    try:
        saved_round = state_round(run_dir)
    except DataError:
        # Without its model a record is still true, so it is shown, without pictures.
        return record
    check_same_round(run_dir, record, saved_round)
    return record


def _link(run_dir: Path, out: Path) -> str | None:
    """Link from the page to a run's report by a relative path, so that both can move together."""
    if not (run_dir / REPORT).exists():
        return None
    relative = os.path.relpath((run_dir / REPORT).resolve(), out.resolve().parent)
    return quote(PurePath(relative).as_posix())


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """Name folders by as many of their last parts as needed to distinguish them."""
    longest = max(len(run_dir.parts) for run_dir in run_dirs)
    for length in range(1, longest + 1):
        names = ["/".join(run_dir.parts[-length:]) for run_dir in run_dirs]
        if len(set(names)) == len(names):
            break
    return names
