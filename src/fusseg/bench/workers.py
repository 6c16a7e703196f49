"""Run cells here or in worker processes, each cell in a process of its own."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from fusseg.bench.cells import Cell, run_cell
from fusseg.bench.interrupts import hold_interrupts
from fusseg.core.errors import FussegError


@dataclass(frozen=True)
class RoundTick:
    """A cell has finished a round."""

    cell: Cell


@dataclass(frozen=True)
class CellDone:
    """A cell has come to its end."""

    cell: Cell
    error: str
    """Why it failed; empty where it did not."""


def run_cells(
    cells: Sequence[Cell], cache: Path, jobs: int
) -> Generator[RoundTick | CellDone, None, None]:
    """Run cells; one that fails does not stop the others.

    Closing the generator, or an interrupt, stops the workers; what they have finished is kept.

    Args:
        cells: In the order in which they are started.
        cache: Feature cache of all.
        jobs: Cells at a time; 1: in this process. Workers share this process's number of threads.
    """
    if jobs > 1:
        yield from _run_in_workers(cells, cache, jobs)
        return
    for cell in cells:
        try:
            for _ in run_cell(cell, cache):
                yield RoundTick(cell)
        except Exception as error:
            yield CellDone(cell, describe(error))
        else:
            yield CellDone(cell, "")


def describe(error: Exception) -> str:
    """Say why a cell failed; an error that nobody foresaw keeps its traceback."""
    if isinstance(error, FussegError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _run_in_workers(
    cells: Sequence[Cell], cache: Path, jobs: int
) -> Generator[RoundTick | CellDone, None, None]:
    threads = max(1, torch.get_num_threads() // jobs)
    waiting = list(reversed(cells))
    running: dict[Connection, tuple[Cell, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop()
                with hold_interrupts():
                    connection, process = _start(cell, cache, threads)
                    running[connection] = cell, process
            for connection in _wait_for(list(running)):
                cell, process = running[connection]
                event = _receive(connection, cell, process)
                if isinstance(event, CellDone):
                    del running[connection]
                    connection.close()
                    process.join()
                yield event
    finally:
        # Whatever is being written is whole or not there, so that a worker can be stopped anywhere.
        for connection, (_, process) in running.items():
            process.terminate()
            process.join()
            connection.close()


def _wait_for(connections: Sequence[Connection]) -> list[Connection]:
    """Wait until something can be received, or a worker is gone."""
    ready = wait(connections)
    return [connection for connection in connections if connection in ready]


def _start(cell: Cell, cache: Path, threads: int) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(cell, cache, threads, sender), daemon=True)
    process.start()
    # The worker's end alone keeps the pipe open, so that its death shows.
    sender.close()
    return receiver, process


def _receive(connection: Connection, cell: Cell, process: BaseProcess) -> RoundTick | CellDone:
    try:
        message = connection.recv()
    except EOFError:
        process.join()
        return CellDone(
            cell,
            f"its process ended with exit code {process.exitcode}; out of memory is the usual "
            "cause, lower --jobs",
        )
    return RoundTick(cell) if message is None else CellDone(cell, message)


def _work(cell: Cell, cache: Path, threads: int, sender: Connection) -> None:
    # Ctrl-C reaches the whole group; the parent decides and stops this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    for event in run_cells([cell], cache, 1):
        sender.send(event.error if isinstance(event, CellDone) else None)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
