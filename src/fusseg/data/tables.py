"""Reading and writing CSV files with a header."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusseg.core.errors import DataError

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Start of a text that a spreadsheet would take for a formula, or that is marked already."""


def dump_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table in which a spreadsheet takes no text for a formula.

    A text that begins with `=`, `+`, `-`, `@` or a control character gets an apostrophe before it,
    which `read_table` removes again. Numbers are not marked.

    Args:
        header: Names of the columns.
        rows: Texts and numbers.

    Examples:
        >>> print(dump_table(["site", "images"], [["yard", 8], ["=1+1", -2]]), end="")
        site,images
        yard,8
        '=1+1,-2
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_marked(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _marked(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


@dataclass(frozen=True)
class TableRow:
    """One row of a table."""

    line: int
    cells: dict[str, str]
    """Texts by column, without surrounding spaces and without the mark against formulas."""


def read_table(path: Path, kind: str, columns: tuple[str, ...]) -> tuple[TableRow, ...]:
    """Read a CSV file that has at least some given columns, in any order.

    Args:
        path: The file.
        kind: Its name in errors: table of splits, or partition.
        columns: Columns that every row must have.

    Raises:
        DataError: If it cannot be read, lacks a column, or has a short row.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{kind} cannot be read ({error.strerror}): {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{kind} is not UTF-8; save it as CSV UTF-8: {path}") from error
    try:
        return tuple(_rows(text, path, kind, columns))
    except csv.Error as error:
        raise DataError(f"{kind} is not valid CSV ({error}): {path}") from error


def _rows(text: str, path: Path, kind: str, columns: tuple[str, ...]) -> Iterator[TableRow]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] | None = None
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if header is None:
            header = cells
            _check_header(header, path, kind, columns)
            continue
        row = dict(zip(header, map(_unmarked, cells), strict=False))
        if any(column not in row for column in columns):
            raise DataError(
                f"line {reader.line_num} has {len(cells)} columns, expected {len(header)}: {path}"
            )
        yield TableRow(reader.line_num, row)
    if header is None:
        raise DataError(f"{kind} is empty, expected the columns {', '.join(columns)}: {path}")


def _unmarked(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _check_header(header: list[str], path: Path, kind: str, columns: tuple[str, ...]) -> None:
    for column in columns:
        if column not in header:
            semicolons = len(header) == 1 and ";" in header[0]
            remedy = "; separate the columns by commas, not semicolons" if semicolons else ""
            raise DataError(
                f"{kind} has no column {column!r} among {', '.join(header)}{remedy}: {path}"
            )
