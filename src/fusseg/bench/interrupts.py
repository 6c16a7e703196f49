"""Hold Ctrl-C back while a process starts."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the body is through; processes started in it never see one.

    Interrupted half way, a start would leave a child that dies of what it was not told, with a
    traceback. The child inherits the blocked signal, so that one to the whole group spares it, too.

    Raises:
        KeyboardInterrupt: At the end, if one came meanwhile.
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
