"""One self-contained page about a grid of experiments: its tables and figures."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fusseg.core.version import VERSION
from fusseg.report.templates import finish_page, open_templates, read_part


@dataclass(frozen=True)
class PageTable:
    """One table of the page."""

    heading: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[tuple[str, bool]]]
    """Text of each cell, and whether it is the best in its column."""


@dataclass(frozen=True)
class PageFigure:
    """One figure of the page."""

    caption: str
    png: bytes


def render_bench(
    title: str,
    command: str,
    notices: Mapping[str, str],
    tables: Sequence[PageTable],
    figures: Sequence[PageFigure],
) -> str:
    """Write the page; the same input gives the same bytes.

    Args:
        title: Heading of the page.
        command: Command that made the tables.
        notices: Reasons why cells failed, by the name of the cell.
        tables: Tables in order.
        figures: Figures in order.

    Returns:
        HTML without references to the network or to other files.
    """
    environment = open_templates()
    style = read_part("report.css")
    page = environment.get_template("bench.html.j2").render(
        title=title,
        command=command,
        notices=notices,
        tables=tables,
        figures=[
            (figure.caption, f"data:image/png;base64,{base64.b64encode(figure.png).decode()}")
            for figure in figures
        ],
        style=Markup(style),
        version=VERSION,
    )
    return finish_page(page)
