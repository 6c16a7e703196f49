"""Hand out tasks to worker processes that share this machine's folders.

All that is Dask's is in `dask_workers`; here a cluster is an `Executor`.
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
"""How the names of the files begin that show whether folders are shared."""
_SEEN_SECONDS = 120.0
"""How long a network file system may hide a file that another machine has written."""


@dataclass(frozen=True)
class Surroundings:
    """Where a task would run if it ran in the process that hands it out."""

    version: str
    torch: str
    folder: Path
    """Relative paths start here."""
    threads: int
    """Of torch: bits depend on their number, so a worker takes that of the process it serves."""
    tokens: tuple[Path, ...]
    """A file in each folder that is written to; they vanish when nobody waits for results."""
    inputs: tuple[Path, ...] = ()
    """What must be there to be read."""


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
    """Say why this process cannot stand in for another one; empty: it can."""
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
                f"its {token.parent} is another folder than this machine's; share one, under the "
                "same path"
            )
        if not os.access(token.parent, os.W_OK):
            return f"it may not write to {token.parent}; run it as a user who may"
    return ""


def is_wanted(tokens: Iterable[Path]) -> bool:
    """Whether somebody waits for the results of a task."""
    return all(token.exists() for token in tokens)


@dataclass(frozen=True)
class Workers:
    """Processes, here or on other machines, that take one task at a time each."""

    executor: Executor
    surroundings: Surroundings
    count: int

    @property
    def ahead(self) -> int:
        """Tasks handed out before the first of them is done."""
        return 4 * self.count

    def submit(self, function: Callable[..., Outcome], *arguments: object) -> Future[Outcome]:
        """Hand out a call of a function of a module."""
        return self.executor.submit(_run_inside, self.surroundings, function, arguments)

    def map(
        self, function: Callable[[Argument], Outcome], parts: Iterable[Argument]
    ) -> Iterator[Outcome]:
        """Apply a function to all parts; the results come in their order."""
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
        DataError: If the cluster gave it up.
        Exception: What the task itself raised.
    """
    try:
        return future.result()
    except Exception as error:
        if not type(error).__module__.startswith("distributed."):
            raise
        # Dask's own errors; that of a task whose workers died names the task and the last of them.
        reason = str(error).partition(". ")[0]
        raise DataError(
            f"the Dask cluster gave a task up ({reason}); where workers died, out of memory is the "
            "usual cause: see their logs and --memory-limit of dask worker"
        ) from error


def wait_until_seen(path: Path) -> None:
    """Wait until a file that a worker has written shows on this machine.

    Raises:
        DataError: If it does not.
    """
    deadline = time.monotonic() + _SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise DataError(
                f"a worker has written {path}, but it does not show here after "
                f"{_SEEN_SECONDS:.0f} s; look at the shared file system"
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
    """Run a function as if it ran in the process that hands it out."""
    with _inside(there):
        return function(*arguments)
