"""Call a function in a process of its own, so that its memory is its own too."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import ParamSpec, TypeVar

import torch

from fusseg.bench.interrupts import hold_interrupts

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class ChildError(RuntimeError):
    """A measurement failed; holds the traceback of its process."""


def call_in_child(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """Call a function in a fresh process with as many threads as this one; may be nested.

    Raises:
        ChildError: If the function fails, or its process ends without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    threads = torch.get_num_threads()
    process = context.Process(target=_work, args=(sender, threads, function, arguments, named))
    try:
        with hold_interrupts():
            process.start()
        # The child's end alone keeps the pipe open, so that its death shows.
        sender.close()
        succeeded, outcome = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        raise ChildError(
            f"the process of {_name(function)} ended with exit code {process.exitcode} and no "
            "answer; where that is -9 it was out of memory as a rule"
        ) from None
    finally:
        # Still alive after an interrupt only; it holds nothing that must be kept.
        if process.is_alive():
            process.terminate()
            process.join()
        receiver.close()
    if not succeeded:
        raise ChildError(outcome)
    result: Result = outcome
    return result


def _work(
    sender: Connection,
    threads: int,
    function: Callable[..., object],
    arguments: tuple[object, ...],
    named: dict[str, object],
) -> None:
    # Ctrl-C reaches the whole group; the first process decides, and its children end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        outcome = True, function(*arguments, **named)
    except Exception:
        sender.send((False, traceback.format_exc().rstrip()))
    else:
        sender.send(outcome)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", repr(function))
