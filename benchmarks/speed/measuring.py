"""Measure every stage against its floor, and write the table as it grows."""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe_machine, machine_text, rate_text
from benchmarks.speed.rows import SpeedRow
from benchmarks.speed.sizes import FULL, QUICK, Setting, Sizes
from benchmarks.speed.suite import Measured, Measurement, list_measurements, run_measurements
from benchmarks.speed.table import SpeedTable, count_status, row_texts, write_table
from fusseg.config.compute import choose_compute
from fusseg.config.schema import ComputeConfig, DeviceName
from fusseg.core.errors import ConfigError
from fusseg.core.visible_text import say
from fusseg.core.worker_processes import call_in_process

_WIDTH = 110
"""Least width of the table, even on narrower terminals: wrapped names are hard to read."""


@dataclass(frozen=True)
class SpeedOptions:
    """Options of the command line."""

    json: Path
    """JSON file to write; the Markdown file is written beside it."""
    command: str
    device: str = "cpu"
    quick: bool = False
    backbone: str | None = None


def run_speed(options: SpeedOptions) -> bool:
    """Measure, show and write all rows; False if a measurement failed.

    The files are written after every measurement, so that an interrupt keeps the rows so far.

    Raises:
        FussegError: If there is no such device, or the files cannot be written.
    """
    sizes = QUICK if options.quick else FULL
    return measure_speed(options, sizes, list_measurements(sizes))


def measure_speed(
    options: SpeedOptions, sizes: Sizes, measurements: tuple[Measurement, ...]
) -> bool:
    """Run chosen measurements at any sizes, as `run_speed` does.

    Raises:
        FussegError: As `run_speed`.
    """
    device = _check_device(options.device)
    if options.json.suffix == ".md":
        raise ConfigError(
            f"--json must not end in .md, got {options.json}: the Markdown file is written beside "
            "it under this name; choose FILE.json"
        )
    width = max(Console().width, _WIDTH)
    console = Console(width=width, soft_wrap=True, highlight=False, markup=False)
    with tempfile.TemporaryDirectory(prefix="fusseg-speed-", ignore_cleanup_errors=True) as folder:
        setting = Setting(sizes, device, options.backbone, Path(folder))
        machine = call_in_process(describe_machine, device, sizes.repeats)
        console.print(f"{machine_text(machine)} {rate_text(machine)}")
        date = f"{datetime.now():%Y-%m-%d}"
        table = SpeedTable(options.command, sizes.name, device, date, machine, (), complete=False)
        written = write_table(options.json, table)
        with closing(run_measurements(measurements, setting)) as events:
            for number, measured in enumerate(events, start=1):
                # After each measurement: an interrupt or a kill keeps the rows so far.
                table = replace(
                    table,
                    measured=(*table.measured, measured),
                    complete=number == len(measurements),
                )
                written = write_table(options.json, table)
                _show(measured, f"[{number} of {len(measurements)}]", console)
    _show_table(table.rows, console)
    console.print(f"{count_status(table.rows)}; in {written[0]} and {written[1]}")
    return not table.failures


def _check_device(name: str) -> DeviceName:
    known: dict[str, DeviceName] = {"cpu": "cpu", "cuda": "cuda"}
    if name not in known:
        raise ConfigError(f"--device must be one of {', '.join(known)}, got {name!r}")
    choose_compute(ComputeConfig(device=known[name]))
    return known[name]


def _show(measured: Measured, place: str, console: Console) -> None:
    if measured.failure:
        console.print(f"{place} {measured.name}: failed")
        say(measured.failure, error=True)
        return
    for row in measured.rows:
        _, seconds, floor, ratio, *_ = row_texts(row)
        figures = f"{seconds}, floor {floor}, ratio {ratio}"
        if row.status == "not measurable here":
            figures = row.note
        console.print(f"{place} {row.name}: {figures}: {row.status}")


def _show_table(rows: Sequence[SpeedRow], console: Console) -> None:
    table = Table("row", "seconds", "floor", "ratio", "status", box=None)
    for row in rows:
        name, seconds, floor, ratio, *_ = row_texts(row)
        table.add_row(name, seconds, floor, ratio, row.status)
    console.print(table)
