"""What a worker must have in common with the process it serves, and tasks in these surroundings."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from fusseg.core.version import VERSION

Outcome = TypeVar("Outcome")

TOKEN = ".cluster-"
"""How the names of the files begin that show whether folders are shared."""


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


def run_inside(
    there: Surroundings, function: Callable[..., Outcome], arguments: tuple[Any, ...]
) -> Outcome:
    """Run a function as if it ran in the process that hands it out."""
    with _inside(there):
        return function(*arguments)


def is_wanted(tokens: Iterable[Path]) -> bool:
    """Whether somebody waits for the results of a task."""
    return all(token.exists() for token in tokens)
