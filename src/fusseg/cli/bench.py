"""Run a grid of experiments and write its table."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from fusseg.bench.cell_results import read_cell
from fusseg.bench.cells import Cell, cell_progress, list_cells
from fusseg.bench.distances import Distances, measure_distances, read_distances
from fusseg.bench.grid import Grid, check_names, override_grid
from fusseg.bench.grid_file import dump_grid, find_grid, load_grid, read_seeds
from fusseg.bench.output import (
    DISTANCES,
    FIGURES,
    GRID,
    MARKDOWN,
    PAGE,
    Bench,
    write_file,
    write_tables,
)
from fusseg.bench.pictures import draw_figures
from fusseg.bench.run_cells import CellDone, run_cells, run_cells_on
from fusseg.bench.table import PHASE_NAMES
from fusseg.cli.progress import Display, follow
from fusseg.cli.spreading import check_dask, workers_at
from fusseg.cluster.workers import TOKEN, Workers
from fusseg.config.file import parse_overrides
from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import ConfigError, FussegError
from fusseg.federation.strategies import find_strategy
from fusseg.report import formatting
from fusseg.report.bench_page import PageFigure
from fusseg.runs.prepare import prepare


@dataclass(frozen=True)
class BenchOptions:
    """Options of `fusseg bench`."""

    grid: str
    out: Path
    cache: Path
    command: str
    preset: str | None = None
    data: Path | None = None
    seeds: int | None = None
    jobs: int = 1
    dask: str | None = None
    """Address of a Dask cluster that runs the cells."""
    overrides: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    figures: bool = True


def run_bench(options: BenchOptions) -> bool:
    """Run the unfinished cells, and write table and figures; False if a cell failed.

    Raises:
        FussegError: If the grid, the data or the output folder cannot be used.
    """
    grid = read_grid(options)
    cells = list_cells(grid, options.out)
    bench = Bench(grid, cells, options.out, options.command, options.only, options.columns)
    chosen = [
        cell
        for cell in cells
        if (not options.only or cell.method in options.only)
        and (not options.columns or cell.column in options.columns)
    ]
    # Check every folder before anything is run or written.
    progress = {cell: cell_progress(cell) for cell in cells}
    pending = [cell for cell in chosen if progress[cell] != "finished"]
    configs = [cell.config for cell in pending]
    with (
        _locked(options.out),
        workers_at(options.dask, [options.out, options.cache], configs) as workers,
        Display() as display,
    ):
        write_file(options.out / GRID, dump_grid(grid).encode())
        display.line(
            f"{len(chosen)} cells in {options.out}: {len(chosen) - len(pending)} finished, "
            f"{sum(progress[cell] == 'begun' for cell in pending)} begun"
        )
        failures: dict[str, str] = {}
        try:
            _extract(pending, options.cache, workers, display)
            distances = _measure_distances(bench, chosen, options.cache, display)
            bench = replace(bench, distances=distances)
            _run(pending, options, workers, failures, display)
        finally:
            write_tables(bench, failures, [])
        if options.figures:
            write_tables(bench, failures, _draw(bench, options.cache, display))
        for label, reason in failures.items():
            display.line(f"failed: {label}: {reason}")
        display.line(f"table: {options.out / MARKDOWN}, {options.out / PAGE}")
    return not failures


def read_grid(options: BenchOptions) -> Grid:
    """Read the grid that the options ask for.

    Raises:
        ConfigError: If the grid, a method or an option is wrong.
    """
    if options.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {options.jobs}")
    if options.jobs > 1 and options.dask is not None:
        raise ConfigError(
            f"--jobs {options.jobs} cannot be combined with --dask {options.dask}: a cluster runs "
            "as many cells as it has workers; leave out --jobs"
        )
    check_dask(options.dask)
    grid = load_grid(find_grid(options.grid), options.preset)
    check_names("method", options.only, grid.method_names)
    check_names("column", options.columns, grid.column_names)
    overrides = list(options.overrides)
    if options.data is not None:
        overrides.insert(0, f"data.root={json.dumps(str(options.data))}")
    grid = override_grid(grid, parse_overrides(overrides))
    if options.seeds is not None:
        grid = replace(grid, seeds=read_seeds(options.seeds))
    return grid


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / "lock", timeout=0):
            # Without the token, workers left by a crashed command stop at their next round.
            for token in out.glob(f"{TOKEN}*"):
                token.unlink(missing_ok=True)
            yield
    except Timeout:
        raise ConfigError(
            f"another fusseg bench is running in {out}; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot write the folder {out}: {error.strerror}") from error


def _extract(cells: Sequence[Cell], cache: Path, workers: Workers | None, display: Display) -> None:
    """Extract the features of all cells before the first one starts."""
    seen: set[Config] = set()
    for cell in cells:
        view = replace(
            cell.config,
            seed=0,
            model=ModelConfig(),
            local=LocalConfig(),
            federation=FederationConfig(),
        )
        if view in seen:
            continue
        seen.add(view)
        prepared = follow(prepare(cell.config, cache, workers), display)
        if prepared.shown.classes is None:
            raise ConfigError(
                f"{cell.label}: no held-out image is labeled, and a table needs scores; set "
                "data.held_out_sites to sites with masks"
            )


def _measure_distances(
    bench: Bench, cells: Sequence[Cell], cache: Path, display: Display
) -> dict[str, Distances]:
    """Measure how different the clients of each column are, if the grid asks for it.

    Columns that were measured before are read from their file.
    """
    if not bench.grid.distances:
        return {}
    known = read_distances(bench.out / DISTANCES)
    found = {name: known[name] for name in bench.grid.column_names if name in known}
    for cell in cells:
        # Pooled images have no clients to compare; a column's other rows share its partition.
        pooled = find_strategy(cell.config.federation.strategy).pools_images
        if cell.column in found or pooled:
            continue
        try:
            found[cell.column] = measure_distances(cell.config, cache)
        except FussegError as error:
            # Scores do not need them.
            display.line(f"the clients of {cell.column!r} could not be compared: {error}")
    return found


def _run(
    cells: Sequence[Cell],
    options: BenchOptions,
    workers: Workers | None,
    failures: dict[str, str],
    display: Display,
) -> None:
    started = time.monotonic()
    done = 0
    running = (
        run_cells(cells, options.cache, options.jobs)
        if workers is None
        else run_cells_on(workers, cells, options.cache)
    )
    with closing(running) as events:
        for event in events:
            if not isinstance(event, CellDone):
                continue
            done += 1
            if event.error:
                failures[event.cell.label] = event.error
            left = (time.monotonic() - started) / done * (len(cells) - done)
            text = f"failed: {event.error}" if event.error else _describe(event.cell)
            display.line(
                f"[{done} of {len(cells)}] {event.cell.label}: {text}; "
                f"{formatting.duration(left)} left"
            )
            display.advance("cells", done, len(cells), lines=False)


def _describe(cell: Cell) -> str:
    result = read_cell(cell)
    assert result is not None
    several = len(result.scores) > 1
    return "mIoU " + ", ".join(
        f"{scores.mean_iou:.4f}" + (f" {PHASE_NAMES[phase]}" if several else "")
        for phase, scores in result.scores.items()
    )


def _draw(bench: Bench, cache: Path, display: Display) -> list[PageFigure]:
    figures = []
    try:
        for name, figure in draw_figures(bench.grid, bench.cells, cache):
            write_file(bench.out / FIGURES / name, figure.png)
            figures.append(figure)
    except FussegError as error:
        # The table does not need them.
        display.line(f"not all figures could be drawn: {error}")
    return figures
