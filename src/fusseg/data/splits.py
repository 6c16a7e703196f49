"""The table of splits: which image of which site belongs to train, val or test."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusseg.errors import DataError

COLUMNS = ("stem", "site", "split")


@dataclass(frozen=True)
class SplitRow:
    """One image in the table."""

    line: int
    stem: str
    site: str
    split: str


def read_splits(path: Path) -> tuple[SplitRow, ...]:
    """Read a CSV file with the columns stem, site and split; others are passed over.

    Raises:
        DataError: If it cannot be read, lacks a column, has a short row, or gives one image two
            different splits.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"table of splits cannot be read ({error.strerror}): {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"table of splits is not UTF-8; save it as CSV UTF-8: {path}") from error
    try:
        rows = tuple(_rows(text, path))
    except csv.Error as error:
        raise DataError(f"table of splits is not valid CSV ({error}): {path}") from error
    _check_unique(rows, path)
    return rows


def split_by_image(rows: tuple[SplitRow, ...]) -> dict[tuple[str, str], str]:
    """Map site and stem to the split."""
    return {(row.site, row.stem): row.split for row in rows}


def _rows(text: str, path: Path) -> Iterator[SplitRow]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] | None = None
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if header is None:
            header = cells
            _check_header(header, path)
            continue
        row = dict(zip(header, cells, strict=False))
        for column in COLUMNS:
            if column not in row:
                raise DataError(
                    f"line {reader.line_num} has {len(cells)} columns, expected {len(header)}: "
                    f"{path}"
                )
        yield SplitRow(reader.line_num, row["stem"], row["site"], row["split"])
    if header is None:
        raise DataError(f"table of splits is empty, expected the columns stem, site, split: {path}")


def _check_header(header: list[str], path: Path) -> None:
    for column in COLUMNS:
        if column not in header:
            semicolons = len(header) == 1 and ";" in header[0]
            mend = "; separate the columns by commas, not semicolons" if semicolons else ""
            raise DataError(
                f"table of splits has no column {column!r} among {', '.join(header)}{mend}: {path}"
            )


def _check_unique(rows: tuple[SplitRow, ...], path: Path) -> None:
    seen: dict[tuple[str, str], SplitRow] = {}
    for row in rows:
        other = seen.setdefault((row.site, row.stem), row)
        if other.split != row.split:
            raise DataError(
                f"image {row.stem!r} of site {row.site!r} is in split {other.split!r} on line "
                f"{other.line} and in split {row.split!r} on line {row.line}: {path}"
            )
