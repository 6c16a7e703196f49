"""Measure the highest anonymous resident memory of this process."""

import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_SECONDS = 0.01
"""Interval between two readings."""


class MemoryMeter:
    """Watches memory in a thread of its own; a context manager.

    Anonymous memory is what the process allocated. Pages of memory-mapped files do not count: the
    kernel can reclaim them at any time.
    """

    def __init__(self) -> None:
        self._peak = anonymous_bytes()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryMeter":
        self._watcher.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._watcher.join()

    def restart(self) -> int | None:
        """Return the highest reading since the last call, and start again; None if unknown."""
        self._look()
        peak, self._peak = self._peak, anonymous_bytes()
        return peak

    def _watch(self) -> None:
        while not self._done.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        now = anonymous_bytes()
        if now is not None and self._peak is not None:
            self._peak = max(self._peak, now)


def anonymous_bytes() -> int | None:
    """Anonymous resident memory of this process; None without /proc."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), None)
