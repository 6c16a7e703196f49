"""The cells of a grid: one run directory per column, method, seed and held-out site."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from filelock import FileLock

from fusseg.bench.anchor_cells import run_anchor
from fusseg.bench.grid import Anchor, Grid, cell_config
from fusseg.config.schema import Config, DataConfig
from fusseg.core.errors import ConfigError
from fusseg.data.partitions.leave_one_out import leave_one_out
from fusseg.runs.directory import CONFIG, RECORD, load_record, read_run_config
from fusseg.runs.engine import RoundDone
from fusseg.runs.finished_rounds import recorded_round
from fusseg.runs.resuming import changed_settings
from fusseg.runs.saved_state import state_round
from fusseg.runs.train import run_experiment

CELLS = "cells"
"""Folder of the cells inside the output folder."""

Progress = Literal["new", "begun", "finished"]


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    column: str
    method: str
    seed: int
    held_out: str
    """The site held out in this run; empty: the configuration decides."""
    config: Config
    anchor: Anchor | None
    path: Path

    @property
    def label(self) -> str:
        """Name of the cell in messages and tables."""
        held_out = f", {self.held_out} held out" if self.held_out else ""
        return f"{self.method}, {self.column}, seed {self.seed}{held_out}"


def list_cells(grid: Grid, out: Path) -> tuple[Cell, ...]:
    """List all cells, seed by seed, so that an unfinished table has complete seeds.

    Raises:
        ConfigError: If two names would share a folder, or a configuration is wrong.
        DataError: If sites are held out in turn and the data cannot be read.
    """
    folders = {
        "columns": _folders("columns", grid.column_names),
        "methods": _folders("methods", grid.method_names),
    }
    in_turn = cache(leave_one_out)
    cells = []
    for seed in grid.seeds:
        for column in grid.columns:
            for method in grid.methods:
                if not grid.has_cell(method, column.name):
                    continue
                config = cell_config(grid, column, method, seed)
                place = (folders["columns"][column.name], folders["methods"][method.name])
                path = out.joinpath(CELLS, *place, str(seed))
                data: Mapping[str, DataConfig] = {"": config.data}
                if grid.leave_one_out:
                    data = in_turn(config.data)
                cells += [
                    Cell(
                        column=column.name,
                        method=method.name,
                        seed=seed,
                        held_out=site,
                        config=replace(config, data=part),
                        anchor=method.anchor,
                        path=path / quote(site, safe=" ") if site else path,
                    )
                    for site, part in data.items()
                ]
    return tuple(cells)


def cell_progress(cell: Cell) -> Progress:
    """Say how far a cell is: finished if its record has scores and its state is of the same round.

    Raises:
        ConfigError: If its folder holds a run with another configuration.
        DataError: If its record or state is damaged, or its state is missing.
    """
    if not (cell.path / CONFIG).exists():
        return "new"
    keys = changed_settings(read_run_config(cell.path), cell.config)
    if keys:
        raise ConfigError(
            f"{cell.path} holds a run with another configuration (differs in {', '.join(keys)}); "
            "choose another --out, or delete that folder"
        )
    if not (cell.path / RECORD).exists():
        return "begun"
    record = load_record(cell.path)
    if record.get("anchor") != cell.anchor:
        raise ConfigError(
            f"{cell.path} holds another kind of row, anchor {record.get('anchor')!r} and not "
            f"{cell.anchor!r}; choose another --out, or delete that folder"
        )
    told, kept = recorded_round(record), state_round(cell.path)
    whole = told == kept or (told is None and kept > 0)
    return "finished" if whole and record["final"] is not None else "begun"


def run_cell(cell: Cell, cache: Path) -> Iterator[None]:
    """Run or continue a cell until it is finished; wait while another process runs it.

    Yields:
        Once per finished round.

    Raises:
        FussegError: If the configuration, the data or the folder cannot be used.
    """
    with _locked(cell):
        # Another process may have finished it in the meantime.
        progress = cell_progress(cell)
        if progress == "finished":
            return
        if cell.anchor is not None:
            run_anchor(cell.config, cell.anchor, cell.path, cache)
            return
        resume = progress != "new"
        for event in run_experiment(cell.config, cell.path, cache, resume=resume):
            if isinstance(event, RoundDone):
                yield


@contextmanager
def _locked(cell: Cell) -> Iterator[None]:
    """Hold a cell's lock, a file beside its folder; a process that dies releases it."""
    lock = cell.path.with_name(f".{cell.path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock).acquire(poll_interval=0.5)
    except OSError as error:
        raise ConfigError(f"cannot write the folder {lock.parent}: {error.strerror}") from error
    with held:
        yield


def folder_name(name: str) -> str:
    """Turn a name into a folder name: lower case, letters, digits and single dashes."""
    letters = (letter if letter.isalnum() else "-" for letter in name.lower())
    return "-".join(part for part in "".join(letters).split("-") if part)


def _folders(kind: str, names: Sequence[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for name in names:
        folder = folder_name(name)
        if not folder:
            raise ConfigError(f"{kind}: {name!r} must have a letter or a digit")
        if folder in folders.values():
            other = next(known for known in folders if folders[known] == folder)
            raise ConfigError(
                f"{kind}: {other!r} and {name!r} would share the folder {folder!r}; rename one"
            )
        folders[name] = folder
    return folders
