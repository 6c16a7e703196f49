"""Write the table of a grid: Markdown, CSV and one page."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from fusseg.bench.cells import Cell
from fusseg.bench.conditions import methods_section, settings_section
from fusseg.bench.grid import Grid
from fusseg.bench.rendering import to_csv, to_markdown
from fusseg.bench.results import read_results
from fusseg.bench.table import Entry, Section, table_sections
from fusseg.core.atomic import write_atomically
from fusseg.core.errors import DataError
from fusseg.core.portable_paths import without_folders
from fusseg.report.bench_page import PageFigure, PageTable, render_bench

GRID, MARKDOWN, CSV, PAGE, FIGURES = "grid.toml", "table.md", "table.csv", "table.html", "figures"


@dataclass(frozen=True)
class Bench:
    """A grid with its cells and where they are kept."""

    grid: Grid
    cells: tuple[Cell, ...]
    """All cells of the grid, run or not."""
    out: Path
    command: str
    chosen: tuple[str, ...]
    """Methods that are to be run; empty: all."""
    chosen_columns: tuple[str, ...] = ()
    """Columns that are to be run; empty: all."""


def write_tables(bench: Bench, failures: Mapping[str, str], figures: Sequence[PageFigure]) -> None:
    """Write what is there; cells that are not finished are shown as missing.

    Args:
        bench: The grid and its cells.
        failures: Why a cell failed, by its name.
        figures: Figures of the page.

    Raises:
        DataError: If a record is damaged, or a file cannot be written.
    """
    single, results = read_results(bench.cells)
    names = bench.grid.method_names
    methods = _shown(names, bench.chosen, {cell.method for cell in single})
    columns = _shown(
        bench.grid.column_names, bench.chosen_columns, {cell.column for cell in single}
    )
    grid = replace(
        bench.grid,
        columns=tuple(column for column in bench.grid.columns if column.name in columns),
        references=tuple(name for name in bench.grid.references if name in methods),
    )
    sections = [
        *table_sections(grid, methods, results),
        settings_section(grid, bench.cells),
        methods_section(grid, methods),
    ]
    title = bench.grid.title
    page = render_bench(
        title, bench.command, failures, [_page_table(section) for section in sections], figures
    )
    markdown_sections = [*sections, *_failed_section(failures)]
    write_file(bench.out / MARKDOWN, to_markdown(title, bench.command, markdown_sections).encode())
    write_file(bench.out / CSV, to_csv(bench.grid, single).encode())
    write_file(bench.out / PAGE, page.encode())


def _shown(names: Sequence[str], chosen: Sequence[str], finished: Set[str]) -> list[str]:
    """Pick the rows or columns that are run now or have been run before."""
    return [name for name in names if name in finished or not chosen or name in chosen]


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole, in a folder that is made if it is not there.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def _failed_section(failures: Mapping[str, str]) -> list[Section]:
    if not failures:
        return []
    rows = tuple(
        (Entry(name), Entry(without_folders(" ".join(reason.split()))))
        for name, reason in failures.items()
    )
    return [Section("Failed", "Cells that could not be run.", ("cell", "reason"), rows)]


def _page_table(section: Section) -> PageTable:
    rows = [[(entry.text, entry.best) for entry in row] for row in section.rows]
    return PageTable(section.heading, section.note, section.header, rows)
