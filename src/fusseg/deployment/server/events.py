"""Events of the server's rounds: lines of a file in the run directory."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fusseg.core.files import append_whole_line

EVENTS = "events.jsonl"
Kind = Literal["waiting", "site", "answer", "incident", "round", "finished", "stopped"]


@dataclass(frozen=True)
class DeploymentEvent:
    """Something that happened at the server."""

    kind: Kind
    text: str
    """One line for people."""
    site: str = ""
    """The site that it is about; empty: none in particular."""


def write_event(run_dir: Path, event: DeploymentEvent) -> None:
    """Append an event, which readers see at once."""
    append_whole_line(run_dir / EVENTS, json.dumps(asdict(event)).encode())


class EventReader:
    """Reads the events that were appended since the last read."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / EVENTS
        self._place = self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> Iterator[DeploymentEvent]:
        """Yield the new events; an incomplete line is left for the next read."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._place)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.splitlines():
            # A line that a crash cut short is ignored.
            with suppress(ValueError, TypeError):
                yield DeploymentEvent(**json.loads(line))
