"""The ledger, at the server and at each site: one line for every message sent or received."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fusseg.core.errors import DataError
from fusseg.core.files import append_whole_line
from fusseg.deployment.wire.raw_tensors import dtype_name, to_bytes

LEDGER = "ledger.jsonl"
Direction = Literal["to site", "to server"]
Field = int | float | str
NUMBER_BYTES = 8
_LONGEST_WORD = 100
"""Most characters of a word that a line repeats; the digest covers the whole word."""


@dataclass(frozen=True)
class TensorLine:
    """One tensor of a message."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class LedgerLine:
    """One message, without its content."""

    time: str
    """Time at which the line was written, UTC."""
    site: str
    round: int
    """0 before training."""
    task: str
    """The task that was asked for or answered."""
    direction: Direction
    tensors: tuple[TensorLine, ...]
    fields: Mapping[str, Field]
    """Numbers and words beside the tensors."""
    bytes: int
    """Bytes of tensors and fields, without the overhead of Flower and TLS."""
    sha256: str
    """Digest of names, shapes, types and values of tensors and fields: the same at both ends."""


def describe_message(
    site: str,
    direction: Direction,
    tensors: Mapping[str, Tensor],
    fields: Mapping[str, Field],
) -> LedgerLine:
    """Describe a message for the ledger.

    Args:
        site: The site that sends or receives it; the other end is the server.
        direction: Its direction.
        tensors: Its tensors.
        fields: Numbers and words beside the tensors, `round` and `task` among them.
    """
    digest = sha256()
    lines = []
    for name, tensor in sorted(tensors.items()):
        content = to_bytes(tensor)
        line = TensorLine(name, tuple(tensor.shape), dtype_name(tensor), len(content))
        digest.update(json.dumps([line.name, line.shape, line.dtype]).encode())
        digest.update(content)
        lines.append(line)
    digest.update(json.dumps(dict(fields), sort_keys=True).encode())
    return LedgerLine(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        site=site,
        round=_whole(fields.get("round")),
        task=str(_shorten(fields.get("task", ""))),
        direction=direction,
        tensors=tuple(lines),
        fields={name: _shorten(value) for name, value in sorted(fields.items())},
        bytes=sum(line.bytes for line in lines) + sum(map(_field_bytes, fields.values())),
        sha256=digest.hexdigest(),
    )


def append_line(folder: Path, line: LedgerLine) -> None:
    """Append a line to the ledger of a folder; it is on disk when this returns.

    Raises:
        DataError: If the ledger cannot be written.
    """
    path = folder / LEDGER
    try:
        append_whole_line(path, json.dumps(asdict(line)).encode())
    except OSError as error:
        raise DataError(f"cannot write the ledger {path}: {error.strerror}") from error


def read_ledger(folder: Path) -> tuple[list[LedgerLine], int]:
    """Read the ledger of a run directory or of a site's state.

    Returns:
        Its lines, and how many could not be read: a crash can cut a line short.

    Raises:
        DataError: If there is no ledger.
    """
    path = folder / LEDGER
    if not path.is_file():
        raise DataError(
            f"{folder} has no {LEDGER}: only deployments send something (fusseg serve, fusseg "
            "join); record.json of a simulated run says how much it would have been"
        )
    lines, damaged = [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                lines.append(_parse(json.loads(text)))
            except (ValueError, KeyError, TypeError):
                damaged += bool(text.strip())
    return lines, damaged


def total_bytes(lines: Iterable[LedgerLine]) -> dict[str, dict[Direction, int]]:
    """Sum the bytes by site and direction."""
    totals: dict[str, dict[Direction, int]] = {}
    for line in lines:
        site = totals.setdefault(line.site, {"to site": 0, "to server": 0})
        site[line.direction] += line.bytes
    return totals


def _parse(entry: Mapping[str, Any]) -> LedgerLine:
    tensors = tuple(
        TensorLine(one["name"], tuple(one["shape"]), one["dtype"], one["bytes"])
        for one in entry["tensors"]
    )
    return LedgerLine(**{**entry, "tensors": tensors})


def _whole(value: Field | None) -> int:
    # The value may be anything: the line is written before the message is checked.
    return value if isinstance(value, int) else 0


def _field_bytes(value: Field) -> int:
    return len(value.encode()) if isinstance(value, str) else NUMBER_BYTES


def _shorten(value: Field) -> Field:
    if not isinstance(value, str) or len(value) <= _LONGEST_WORD:
        return value
    return f"{value[:_LONGEST_WORD]}... ({len(value)} characters)"
