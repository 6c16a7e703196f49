"""Write the table of a grid as Markdown, CSV and an HTML page."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusseg.bench.cell_results import Result, read_results
from fusseg.bench.cells import Cell
from fusseg.bench.conditions import methods_section, settings_section
from fusseg.bench.distances import Distances, dump_distances
from fusseg.bench.grid import Grid
from fusseg.bench.table import Entry, Section, table_sections
from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically
from fusseg.core.portable_paths import without_folders
from fusseg.data.tables import dump_table
from fusseg.report import formatting
from fusseg.report.bench_page import PageFigure, PageTable, render_bench

GRID, MARKDOWN, CSV, PAGE, FIGURES = "grid.toml", "table.md", "table.csv", "table.html", "figures"
DISTANCES = "distances.csv"
_CSV_HEADER = ("method", "column", "seed", "held_out", "phase", "site", "score", "value")


@dataclass(frozen=True)
class Bench:
    """A grid with its cells and its output folder."""

    grid: Grid
    cells: tuple[Cell, ...]
    """All cells of the grid, finished or not."""
    out: Path
    command: str
    chosen: tuple[str, ...]
    """Methods to run; empty: all."""
    chosen_columns: tuple[str, ...] = ()
    """Columns to run; empty: all."""
    distances: Mapping[str, Distances] = field(default_factory=dict)
    """Measured differences between the clients, by column."""


def write_tables(bench: Bench, failures: Mapping[str, str], figures: Sequence[PageFigure]) -> None:
    """Write the results so far; unfinished cells are shown as missing.

    Args:
        bench: The grid and its cells.
        failures: By the label of each failed cell, why it failed.
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
        *_distances_sections(grid, bench.distances),
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
    if bench.distances:
        write_file(bench.out / DISTANCES, dump_distances(bench.distances).encode())
    write_file(bench.out / PAGE, page.encode())


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, and create its folder if needed.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def to_markdown(title: str, command: str, sections: Sequence[Section]) -> str:
    """Format sections as Markdown tables under one title.

    Args:
        title: Heading of the page.
        command: The command that made the table.
        sections: Its tables, in order.
    """
    parts = [f"# {title}", f"    {without_folders(command)}"]
    for section in sections:
        rule = "|---" * len(section.header) + "|"
        rows = [_row([_marked(entry) for entry in row]) for row in section.rows]
        parts += [
            f"## {section.heading}",
            section.note,
            "\n".join([_row(section.header), rule, *rows]),
        ]
    return "\n\n".join(parts) + "\n"


def to_csv(grid: Grid, results: Mapping[Cell, Result]) -> str:
    """Format one line per cell and score, as fractions, bytes and seconds.

    `site` is empty for scores over all held-out sites; the paper's figures have the phase
    `published` and no seed.
    """
    return dump_table(_CSV_HEADER, _csv_rows(grid, results))


def _shown(names: Sequence[str], chosen: Sequence[str], finished: Set[str]) -> list[str]:
    """List the rows or columns to show: those to run now and those with finished cells."""
    return [name for name in names if name in finished or not chosen or name in chosen]


def _distances_sections(grid: Grid, found: Mapping[str, Distances]) -> list[Section]:
    if not grid.distances or not found:
        return []
    rows = [
        (
            Entry(name),
            Entry(str(found[name].num_clients)),
            Entry(f"{found[name].sizes:.1f}"),
            Entry(_decimals(found[name].classes)),
            Entry(_decimals(found[name].features)),
        )
        for name in grid.column_names
        if name in found
    ]
    return [
        Section(
            "How different the clients are",
            "Sizes: images of the largest client for each of the smallest. Classes: mean distance "
            "of two clients' shares of labeled pixels (total variation: 0 is alike, 1 is nothing "
            "in common; clients without labels do not count). Features: mean distance of two "
            "clients' mean features, in standard deviations of all features."
            + (" Measured with the first site held out." if grid.leave_one_out else ""),
            ("column", "clients", "sizes", "classes", "features"),
            tuple(rows),
        )
    ]


def _decimals(value: float | None) -> str:
    return formatting.ABSENT if value is None else f"{value:.3f}"


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


def _csv_rows(grid: Grid, results: Mapping[Cell, Result]) -> Iterator[Sequence[object]]:
    for cell, result in results.items():
        place = (cell.method, cell.column, cell.seed, cell.held_out)
        for phase, scores in result.scores.items():
            yield *place, phase, "", "mean_iou", scores.mean_iou
            if scores.mean_iou_stego is not None:
                yield *place, phase, "", "mean_iou_stego", scores.mean_iou_stego
            yield *place, phase, "", "pixel_accuracy", scores.pixel_accuracy
            for site, value in scores.sites.items():
                yield *place, phase, site, "mean_iou", value
        yield *place, "", "", "bytes_sent", result.bytes_sent
        yield *place, "", "", "seconds", result.seconds
    for method, figures in (grid.published or {}).items():
        for column, percent in figures.items():
            value = round(percent / 100, 6)
            yield method, column, "", "", "published", "", "mean_iou", value


def _marked(entry: Entry) -> str:
    text = entry.text.replace("|", "\\|")
    return f"**{text}**" if entry.best else text


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
