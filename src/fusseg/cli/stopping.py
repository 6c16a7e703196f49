"""How commands stop: at Ctrl-C, or when a service manager ends them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fusseg.core.visible_text import say

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""


@contextmanager
def stopped_with(message: str) -> Iterator[None]:
    """Print a message at Ctrl-C, and exit with the status that shells expect."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\n{message}", error=True)
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def interruptible(run_dir: Path, resume_command: str) -> Iterator[None]:
    """At Ctrl-C, print how to continue a run, and exit with the status that shells expect."""
    try:
        yield
    except KeyboardInterrupt:
        begun = (run_dir / "config.toml").exists()
        message = f"stopped; continue with: {resume_command}" if begun else "stopped"
        say(f"\n{message}", error=True)
        raise SystemExit(INTERRUPTED) from None


def stop_on_terminate() -> None:
    """Treat SIGTERM like Ctrl-C, so that a service manager stops a command in good order."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
