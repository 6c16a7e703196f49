"""Write the table of speed as JSON and as Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.speed.machine import Machine, machine_text, rate_text
from benchmarks.speed.rows import SpeedRow
from benchmarks.speed.suite import Measured
from fusseg.bench.output import write_file

HEADER = ("row", "seconds", "floor", "ratio", "target", "status", "GFLOP", "GFLOP / rate", "peak")
_ABSENT = "\N{EN DASH}"
_READING = (
    "Seconds are the fastest of several calls, taken in turns with their floor: the stage's matrix "
    "products alone, in the same process, shapes and precision, unless the note names another "
    "floor. GFLOP / rate: seconds the arithmetic would take at the rate of the reference product. "
    "Peak: anonymous resident memory of the process during the stage."
)


@dataclass(frozen=True)
class SpeedTable:
    """The results of one run so far."""

    command: str
    sizes: str
    """Name of the sizes."""
    device: str
    date: str
    machine: Machine
    measured: tuple[Measured, ...]
    complete: bool
    """Whether everything was measured; false after an interrupt."""

    @property
    def rows(self) -> tuple[SpeedRow, ...]:
        """All rows, in order."""
        return tuple(row for part in self.measured for row in part.rows)

    @property
    def failures(self) -> tuple[Measured, ...]:
        """Measurements that failed."""
        return tuple(part for part in self.measured if part.failure)


def write_table(path: Path, table: SpeedTable) -> tuple[Path, Path]:
    """Write the JSON file, and a Markdown file of the same name beside it.

    Raises:
        DataError: If one cannot be written.
    """
    markdown = path.with_suffix(".md")
    write_file(path, to_json(table).encode())
    write_file(markdown, to_markdown(table).encode())
    return path, markdown


def to_json(table: SpeedTable) -> str:
    """Format all figures as JSON, unrounded."""
    content = {
        "command": table.command,
        "date": table.date,
        "sizes": table.sizes,
        "device": table.device,
        "complete": table.complete,
        "machine": asdict(table.machine),
        "rows": [asdict(row) for row in table.rows],
        "failures": [{"name": part.name, "traceback": part.failure} for part in table.failures],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(table: SpeedTable) -> str:
    """Format the rows as one table, and a second one with their sizes and notes."""
    counted = count_status(table.rows)
    interrupted = "" if table.complete else " Interrupted: not all rows were measured."
    parts = [
        "# Speed",
        f"    {table.command}",
        f"{table.date}, sizes: {table.sizes}, device: {table.device}. "
        f"{machine_text(table.machine)} {rate_text(table.machine)}",
        f"{counted}.{interrupted}",
        _READING,
        _lines(HEADER, [row_texts(row) for row in table.rows]),
        "## What each row is",
        _lines(("row", "size", "note"), [(row.name, row.size, row.note) for row in table.rows]),
    ]
    if table.failures:
        parts.append("## Failed")
    parts += [f"{part.name}\n\n```\n{part.failure}\n```" for part in table.failures]
    return "\n\n".join(parts) + "\n"


def row_texts(row: SpeedRow) -> tuple[str, ...]:
    """Format a row's figures, in the order of `HEADER`."""
    at_rate = None
    if row.gflop is not None and row.gflop_per_second:
        at_rate = row.gflop / row.gflop_per_second
    return (
        row.name,
        seconds_text(row.seconds),
        seconds_text(row.floor_seconds),
        _ABSENT if row.ratio is None else f"{row.ratio:.3g}",
        row.target,
        row.status,
        _ABSENT if row.gflop is None else f"{row.gflop:.3g}",
        seconds_text(at_rate),
        _ABSENT if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f} MiB",
    )


def count_status(rows: Sequence[SpeedRow]) -> str:
    """Count the rows of each status."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    return f"{len(rows)} rows: " + ", ".join(f"{n} {status}" for status, n in counts.items())


def seconds_text(seconds: float | None) -> str:
    """Format a time span with three digits, in milliseconds below a second."""
    if seconds is None:
        return _ABSENT
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_line(header), "|---" * len(header) + "|", *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
