"""The table as Markdown and as CSV."""

from collections.abc import Iterator, Mapping, Sequence

from fusseg.bench.cells import Cell
from fusseg.bench.grid import Grid
from fusseg.bench.results import Result
from fusseg.bench.table import Entry, Section
from fusseg.core.portable_paths import without_folders
from fusseg.data.tables import dump_table

_CSV_HEADER = ("method", "column", "seed", "held_out", "phase", "site", "score", "value")


def to_markdown(title: str, command: str, sections: Sequence[Section]) -> str:
    """Write sections as Markdown tables under one title.

    Args:
        title: Heading of the page.
        command: What made the table.
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
    """Write one line per cell and score, as fractions, bytes and seconds.

    `site` is empty for scores over all held-out sites; the paper's figures have the phase
    `published` and no seed.
    """
    return dump_table(_CSV_HEADER, _csv_rows(grid, results))


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
