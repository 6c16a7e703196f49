"""What the server remembers of secure sums, for when it is started again within a round.

A sum that sites have begun to reveal is asked again over the identical sites only; the sites refuse
anything else.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically
from fusseg.deployment.wire.sum_messages import Kind, Session, order_of

_FILE = "sums.json"


def next_session(folder: Path, run: str, kind: Kind, round_number: int) -> Session:
    """Number a new session; no number is used twice.

    Args:
        folder: Flower's folder of the run.
        run: Name of the run.
        kind: Whether it is that of the hellos or of a round.
        round_number: The round, or 0.

    Raises:
        DataError: If the file is damaged or cannot be written.
    """
    known = _read(folder)
    number = int(known.get("session", 0)) + 1
    _write(folder, {**known, "session": number})
    return Session(run, number, kind, round_number)


def note_sites(folder: Path, session: Session, place: int, sites: Sequence[str]) -> None:
    """Note, before anything is revealed, over which sites a sum is.

    Raises:
        DataError: If the file is damaged or cannot be written.
    """
    known = _read(folder)
    noted = known.get("sites", {}) if known.get("order") == session.order else {}
    noted = {**noted, str(place): list(sites)}
    _write(folder, {**known, "order": session.order, "sites": noted})


def noted_sites(folder: Path, kind: Kind, round_number: int) -> dict[int, tuple[str, ...]]:
    """Return over which sites the sums are that were begun before, by their number in the round.

    Raises:
        DataError: If the file is damaged.
    """
    known = _read(folder)
    if known.get("order") != order_of(kind, round_number):
        return {}
    return {int(place): tuple(sites) for place, sites in known.get("sites", {}).items()}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / _FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"damaged file: {path} ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"damaged file: {path} (no object)")
    return found


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    path = folder / _FILE
    try:
        write_atomically(path, json.dumps(content).encode())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
