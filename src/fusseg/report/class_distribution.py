"""Draw the share of each class in each client's images, as stacked bars."""

import io
import warnings
from collections.abc import Sequence
from typing import Literal

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from fusseg.report.svg import plain

_WIDTH, _BAR_HEIGHT, _LEGEND_HEIGHT = 8.0, 0.26, 0.18  # inches
_LEGEND_COLUMNS = 5
_MUTED = "#555555"


def draw_class_distribution(
    clients: Sequence[str],
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    shares: Float[np.ndarray, "clients classes"],
    kind: Literal["svg", "png"],
) -> bytes:
    """Draw one bar per client, divided by class; the same input gives the same bytes.

    Args:
        clients: Names of the clients, from top to bottom.
        classes: Names of the classes, from left to right; those that no client has are left out.
        colors: RGB color of each class.
        shares: Share of each class in a client's labeled pixels, in [0, 1]; all zeros for a client
            without labels.
        kind: Format of the file.
    """
    shown = [number for number in range(len(classes)) if shares[:, number].any()]
    rows = -(-len(shown) // _LEGEND_COLUMNS)
    # Without metadata and with a fixed salt, the file does not depend on the date or the process.
    settings = {"svg.hashsalt": "classes", "svg.fonttype": "none", "text.parse_math": False}
    fields = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    with matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure = Figure(
            figsize=(_WIDTH, 0.5 + _BAR_HEIGHT * len(clients) + _LEGEND_HEIGHT * rows), dpi=110
        )
        axes = figure.subplots()
        before = np.zeros(len(clients))
        for number in shown:
            color = tuple(channel / 255 for channel in colors[number])
            name = plain(classes[number])
            axes.barh(range(len(clients)), shares[:, number], left=before, color=color, label=name)
            before += shares[:, number]
        axes.set_yticks(range(len(clients)), [plain(client) for client in clients])
        axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 % of the labeled pixels"])
        axes.set(xlim=(0, 1), ylim=(len(clients) - 0.5, -0.5))
        axes.tick_params(length=0, labelsize=8, labelcolor=_MUTED)
        axes.spines[:].set_visible(False)
        _place(figure, len(clients), rows)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=dict.fromkeys(fields))
    return buffer.getvalue()


def _place(figure: Figure, num_bars: int, legend_rows: int) -> None:
    height = figure.get_figheight()
    top = 1 - 0.08 / height
    figure.subplots_adjust(
        left=0.2, right=0.86, top=top, bottom=top - _BAR_HEIGHT * num_bars / height
    )
    if legend_rows:
        figure.legend(
            loc="lower center", ncols=_LEGEND_COLUMNS, fontsize=8, frameon=False, handlelength=1
        )
