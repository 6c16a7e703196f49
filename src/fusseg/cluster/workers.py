"""Hand out tasks to workers that share this machine's folders.

Here a cluster is any `Executor`; everything about Dask is in `dask_workers`.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from fusseg.core.errors import DataError
from fusseg.core.version import VERSION

Argument = TypeVar("Argument")
Outcome = TypeVar("Outcome")

TOKEN = ".cluster-"
"""Prefix of the files that prove that a folder is shared, and that results are still wanted."""
_SEEN_SECONDS = 120.0
"""How long a network file system may hide a file that another machine has written."""


@dataclass(frozen=True)
class Surroundings:
    """What a worker must share with the process that hands out tasks."""

    version: str
    torch: str
    folder: Path
    """Working folder, where relative paths start."""
    threads: int
    """Torch threads: results depend on their number to the bit, so workers use the same."""
    tokens: tuple[Path, ...]
    """A file in each folder that is written to; deleted when results are no longer wanted."""
    inputs: tuple[Path, ...] = ()
    """Paths that must be readable."""


def describe_surroundings(tokens: Iterable[Path], inputs: Iterable[Path]) -> Surroundings:
    """Describe this process."""
    return Surroundings(
        version=VERSION,
        torch=str(torch.__version__),
        folder=Path.cwd(),
        threads=torch.get_num_threads(),
        tokens=tuple(path.absolute() for path in tokens),
        inputs=tuple(path.absolute() for path in inputs if path.exists()),
    )


def find_fault(there: Surroundings) -> str:
    """Say why this process cannot run tasks for another one; empty if it can."""
    if there.version != VERSION:
        return f"it has fusseg {VERSION}, not {there.version}; install the same version"
    if there.torch != str(torch.__version__):
        return f"it has torch {torch.__version__}, not {there.torch}; install the same version"
    for path in (there.folder, *there.inputs, *(token.parent for token in there.tokens)):
        if not path.exists():
            return f"it does not see {path}; share the folder, under the same path"
    for token in there.tokens:
        if not token.exists():
            return (
                f"its {token.parent} is not the same folder as on this machine; share one folder "
                "under the same path"
            )
        if not os.access(token.parent, os.W_OK):
            return f"it cannot write to {token.parent}; run it as a user who has permission"
    return ""


def is_wanted(tokens: Iterable[Path]) -> bool:
    """Whether the results of a task are still wanted."""
    return all(token.exists() for token in tokens)


@dataclass(frozen=True)
class Workers:
    """Processes, here or on other machines, that run one task at a time each."""

    executor: Executor
    surroundings: Surroundings
    count: int

    @property
    def ahead(self) -> int:
        """Number of tasks that are handed out in advance."""
        return 4 * self.count

    def submit(self, function: Callable[..., Outcome], *arguments: object) -> Future[Outcome]:
        """Hand out a call of a function that can be imported from a module."""
        return self.executor.submit(_run_inside, self.surroundings, function, arguments)

    def map(
        self, function: Callable[[Argument], Outcome], parts: Iterable[Argument]
    ) -> Iterator[Outcome]:
        """Apply a function to all parts; the results come in the order of the parts."""
        running: deque[Future[Outcome]] = deque()
        try:
            for part in parts:
                running.append(self.submit(function, part))
                if len(running) >= self.ahead:
                    yield result_of(running.popleft())
            while running:
                yield result_of(running.popleft())
        finally:
            for future in running:
                future.cancel()


def result_of(future: Future[Outcome]) -> Outcome:
    """Wait for the result of a task.

    Raises:
        DataError: If the cluster gave up on it.
        Exception: What the task itself raised.
    """
    try:
        return future.result()
    except Exception as error:
        if not type(error).__module__.startswith("distributed."):
            raise
        # An error of Dask itself; after workers died, it names the task and the last worker.
        reason = str(error).partition(". ")[0]
        raise DataError(
            f"the Dask cluster gave up on a task ({reason}); if workers died, out of memory is the "
            "usual cause: see their logs, and --memory-limit of dask worker"
        ) from error


def wait_until_seen(path: Path) -> None:
    """Wait until a file written by a worker is visible on this machine.

    Raises:
        DataError: If it does not become visible.
    """
    deadline = time.monotonic() + _SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise DataError(
                f"a worker has written {path}, but this machine does not see it after "
                f"{_SEEN_SECONDS:.0f} s; check the shared file system"
            )
        time.sleep(0.1)


@contextmanager
def _inside(there: Surroundings) -> Iterator[None]:
    folder, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(there.folder)
    torch.set_num_threads(there.threads)
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_num_threads(threads)


def _run_inside(
    there: Surroundings, function: Callable[..., Outcome], arguments: tuple[Any, ...]
) -> Outcome:
    """Run a function in the folder and with the threads of the process that hands it out."""
    with _inside(there):
        return function(*arguments)
