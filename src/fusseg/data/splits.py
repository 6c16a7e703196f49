"""The table of splits: the split of each image, such as train, val or test."""

from dataclasses import dataclass
from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.data.tables import read_table

KIND = "table of splits"
COLUMNS = ("stem", "site", "split")


@dataclass(frozen=True)
class SplitRow:
    """One image in the table."""

    line: int
    stem: str
    site: str
    split: str


def read_splits(path: Path) -> tuple[SplitRow, ...]:
    """Read a CSV file with the columns stem, site and split; other columns are ignored.

    Raises:
        DataError: If it cannot be read, lacks a column, has a short row, or gives one image two
            different splits.
    """
    rows = tuple(
        SplitRow(row.line, *(row.cells[column] for column in COLUMNS))
        for row in read_table(path, KIND, COLUMNS)
    )
    seen: dict[tuple[str, str], SplitRow] = {}
    for row in rows:
        other = seen.setdefault((row.site, row.stem), row)
        if other.split != row.split:
            raise DataError(
                f"image {row.stem!r} of site {row.site!r} is in split {other.split!r} on line "
                f"{other.line} and in split {row.split!r} on line {row.line}: {path}"
            )
    return rows


def split_by_image(rows: tuple[SplitRow, ...]) -> dict[tuple[str, str], str]:
    """Map site and stem to the split."""
    return {(row.site, row.stem): row.split for row in rows}
