"""Run cells on other machines."""

from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, Future, as_completed
from contextlib import closing
from pathlib import Path

from fusseg.bench.cells import Cell
from fusseg.bench.workers import CellDone, describe, run_cells
from fusseg.cluster.surroundings import is_wanted
from fusseg.cluster.workers import Workers, result_of, wait_until_seen
from fusseg.runs.directory import RECORD, STATE


def run_cells_on(
    workers: Workers, cells: Sequence[Cell], cache: Path
) -> Generator[CellDone, None, None]:
    """Run cells on other machines; one that fails does not stop the others.

    A worker runs one cell at a time, with this process's number of threads. The cells of a worker
    that dies go on elsewhere after their last finished round. Closing the generator takes back
    what has not begun; `join_cluster` stops the rest, each cell at its next finished round.

    Args:
        workers: Which see the cells' folder and the cache.
        cells: In the order in which they are started.
        cache: Feature cache of all.
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


def _run_to_end(cell: Cell, cache: Path, tokens: Sequence[Path]) -> str:
    """Run a cell, on a worker, and say why it failed; empty where it did not."""
    with closing(run_cells([cell], cache, 1)) as events:
        for event in events:
            if isinstance(event, CellDone):
                return event.error
            if not is_wanted(tokens):
                break
    return "stopped: nobody waits for it"


def _failure(future: Future[str]) -> str:
    try:
        return result_of(future)
    except CancelledError:  # the scheduler is lost, and no cell to blame
        raise
    except Exception as error:
        return describe(error)
