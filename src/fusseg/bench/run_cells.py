"""Run cells in this process, in worker processes, or on the machines of a cluster."""

import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, Future, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fusseg.bench.cells import Cell, run_cell
from fusseg.cluster.workers import Workers, is_wanted, result_of, wait_until_seen
from fusseg.core.errors import FussegError
from fusseg.core.worker_processes import WorkerDiedError, WorkerError, run_in_processes
from fusseg.runs.directory import RECORD, STATE


@dataclass(frozen=True)
class RoundTick:
    """A cell has finished a round."""

    cell: Cell


@dataclass(frozen=True)
class CellDone:
    """A cell has finished or failed."""

    cell: Cell
    error: str
    """Why it failed; empty if it finished."""


def run_cells(
    cells: Sequence[Cell], cache: Path, jobs: int
) -> Generator[RoundTick | CellDone, None, None]:
    """Run cells; one that fails does not stop the others.

    Closing the generator, or an interrupt, stops the workers; what they have finished is kept.

    Args:
        cells: In the order in which they are started.
        cache: Feature cache of all cells.
        jobs: Cells that run at a time. With 1 they run in this process, otherwise each in a worker
            process; the workers share this process's number of threads.
    """
    if jobs == 1:
        for cell in cells:
            yield from _run_here(cell, cache)
        return
    calls = [(cell, cache) for cell in cells]
    # Workers can be stopped at any moment: every file is either written whole or not there.
    with closing(run_in_processes(_run_here, calls, jobs)) as messages:
        for index, message in messages:
            if isinstance(message, WorkerError):
                yield CellDone(cells[index], _describe_worker(message))
            else:
                yield message


def run_cells_on(
    workers: Workers, cells: Sequence[Cell], cache: Path
) -> Generator[CellDone, None, None]:
    """Run cells on the machines of a cluster; one that fails does not stop the others.

    A worker runs one cell at a time, with this process's number of threads. When a worker dies,
    other workers continue its cells after their last finished round. Closing the generator cancels
    the cells that have not started; `join_cluster` stops each of the others at its next finished
    round.

    Args:
        workers: Workers that can read and write the cells' folder and the cache.
        cells: In the order in which they are started.
        cache: Feature cache of all cells.
    """
    running = {
        workers.submit(_run_to_end, cell, cache, workers.surroundings.tokens): cell
        for cell in cells
    }
    try:
        for future in as_completed(running):
            cell = running[future]
            error = _failure(future)
            if not error:
                for name in (RECORD, STATE):
                    wait_until_seen(cell.path / name)
            yield CellDone(cell, error)
    finally:
        for future in running:
            future.cancel()


def _run_here(cell: Cell, cache: Path) -> Generator[RoundTick | CellDone, None, None]:
    try:
        for _ in run_cell(cell, cache):
            yield RoundTick(cell)
    except Exception as error:
        yield CellDone(cell, _describe(error))
    else:
        yield CellDone(cell, "")


def _run_to_end(cell: Cell, cache: Path, tokens: Sequence[Path]) -> str:
    """Run a cell on a worker of a cluster, and say why it failed; empty if it finished."""
    with closing(_run_here(cell, cache)) as events:
        for event in events:
            if isinstance(event, CellDone):
                return event.error
            if not is_wanted(tokens):
                break
    return "stopped: nobody waits for it"


def _failure(future: Future[str]) -> str:
    try:
        return result_of(future)
    except CancelledError:  # The scheduler is lost; no cell is to blame.
        raise
    except Exception as error:
        return _describe(error)


def _describe(error: Exception) -> str:
    """Say why a cell failed; an unexpected error keeps its traceback."""
    if isinstance(error, FussegError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _describe_worker(error: WorkerError) -> str:
    if isinstance(error, WorkerDiedError):
        return (
            f"its process ended with exit code {error.exit_code}; out of memory is the usual "
            "cause, lower --jobs"
        )
    return str(error)
