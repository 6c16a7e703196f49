"""Workers that take tasks, whoever runs them: all of Dask is behind `Executor`."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fusseg.cluster.surroundings import Surroundings, run_inside
from fusseg.core.errors import DataError

Argument = TypeVar("Argument")
Outcome = TypeVar("Outcome")

_SEEN_SECONDS = 120.0
"""How long a network file system may hide a file that another machine has written."""


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
        return self.executor.submit(run_inside, self.surroundings, function, arguments)

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
