"""Run functions in worker processes, a fresh process for each call.

Workers are spawned and not forked: a fork copies torch's locks, but not the threads that hold them.
They ignore Ctrl-C, which a terminal sends to the whole process group. The process that started them
stops them, and they end with it if it dies.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec, TypeVar

import torch

Message = TypeVar("Message")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class WorkerError(RuntimeError):
    """A function failed in its worker process; the text is its traceback."""


class WorkerDiedError(WorkerError):
    """A worker process ended before its function did."""

    def __init__(self, name: str, exit_code: int | None) -> None:
        super().__init__(
            f"the process of {name} ended with exit code {exit_code} and no answer; -9 usually "
            "means that it ran out of memory"
        )
        self.exit_code = exit_code


def call_in_process(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """Call a function in a process of its own, with as many threads as this one.

    The function may call others in the same way.

    Args:
        function: One that can be pickled, such as a function of a module.
        *arguments: Its positional arguments.
        **named: Its keyword arguments.

    Raises:
        WorkerError: If the function fails, or its process dies.
    """
    call = _Call(function, arguments, named, threads=torch.get_num_threads())
    # A daemon may not start processes.
    [(_, outcome)] = _run([call], 1, daemon=False)
    if isinstance(outcome, WorkerError):
        raise outcome
    result: Result = outcome
    return result


def run_in_processes(
    function: Callable[..., Iterable[Message]],
    calls: Sequence[tuple[object, ...]],
    at_a_time: int,
) -> Generator[tuple[int, Message | WorkerError], None, None]:
    """Call a generator function several times, and pass on what it yields as it comes.

    A call that fails does not stop the others. Closing the generator, or Ctrl-C, stops the workers.

    Args:
        function: One that can be pickled, such as a function of a module.
        calls: The arguments of each call, in the order in which they start.
        at_a_time: Number of workers, which share this process's number of threads.

    Yields:
        The index of a call, and something that it yielded or, last, why it failed.
    """
    threads = max(1, torch.get_num_threads() // at_a_time)
    yield from _run(
        [_Call(function, arguments, {}, threads, yields=True) for arguments in calls],
        at_a_time,
        daemon=True,
    )


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the body has run; processes started in the body do not receive it.

    An interrupted start would leave a child that fails with a traceback, because it was not told
    everything. The child inherits the blocked signal, so it survives one to the whole group.

    Raises:
        KeyboardInterrupt: At the end, if Ctrl-C was pressed during the body.
    """
    held: list[int] = []
    # Handlers belong to the main thread, and other threads are never interrupted.
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT)
    if is_main:
        signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, previous)
    if held and callable(previous):
        previous(signal.SIGINT, None)


@dataclass(frozen=True)
class _Call:
    function: Callable[..., Any]
    arguments: tuple[object, ...]
    named: dict[str, object]
    threads: int
    yields: bool = False
    """Whether the function yields its messages; otherwise what it returns is the only one."""

    def messages(self) -> Iterator[object]:
        outcome = self.function(*self.arguments, **self.named)
        if self.yields:
            yield from outcome
        else:
            yield outcome


class _End:
    """Sent by a worker after its last message."""


def _run(
    calls: Sequence[_Call], at_a_time: int, *, daemon: bool
) -> Generator[tuple[int, Any], None, None]:
    waiting = list(enumerate(calls))[::-1]
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                index, call = waiting.pop()
                with hold_interrupts():
                    connection, process = _start(call, daemon=daemon)
                    running[connection] = index, process
            # Ready is a worker that has sent something, and one that is dead.
            ready = wait(list(running))
            for connection in [one for one in running if one in ready]:
                index, process = running[connection]
                message = _receive(connection, process, calls[index])
                if isinstance(message, _End | WorkerError):
                    del running[connection]
                    connection.close()
                    process.join()
                if not isinstance(message, _End):
                    yield index, message
    finally:
        for connection, (_, process) in running.items():
            process.terminate()
            process.join()
            connection.close()


def _start(call: _Call, *, daemon: bool) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(call, sender), daemon=daemon)
    process.start()
    # The pipe closes when the worker dies, because only the worker holds its sending end.
    sender.close()
    return receiver, process


def _receive(connection: Connection, process: BaseProcess, call: _Call) -> object:
    try:
        return connection.recv()
    except EOFError:
        process.join()
        name = getattr(call.function, "__name__", repr(call.function))
        return WorkerDiedError(name, process.exitcode)


def _work(call: _Call, sender: Connection) -> None:
    # Ctrl-C reaches the whole group; the parent decides and stops this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(call.threads)
    try:
        for message in call.messages():
            sender.send(message)
    except Exception:
        sender.send(WorkerError(traceback.format_exc().rstrip()))
    else:
        sender.send(_End())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
