"""The report's figures, each one SVG element as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fusseg.report import formatting
from fusseg.report.svg import COLORS, NUM_SERIES, draw_svg, plain, text_width, tip

_WIDTH = 400.0
_CURVE_AREA = (0.165, 0.19, 0.795, 0.77)
_MAX_POINTS = 40
"""Rounds up to which each one gets its own mark."""
_MAX_NUMBERED = 16
"""Clusters or classes up to which the cells of the confusion carry their numbers."""


def mean_iou_curve(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw mIoU against the round, for the rounds that were scored."""
    points = [(entry["round"], entry["mean_iou"]) for entry in rounds if _scored(entry)]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_CURVE_AREA)
        _style_curve(axes, [number for number, _ in points], "mIoU")
        axes.plot(*zip(*points, strict=True), color=COLORS["chart-accent"], linewidth=2.4)
        _draw_points(axes, points, "mIoU", COLORS["chart-accent"])
        axes.set_ylim(0, 1.18 * max([0.05, *(value for _, value in points)]))
        axes.annotate(
            formatting.score(points[-1][1]),
            points[-1],
            (0, 8),
            textcoords="offset points",
            ha="right",
            fontweight="bold",
        )

    label = f"mIoU per round, from {points[0][1]:.3f} to {points[-1][1]:.3f}"
    return draw_svg("miou-curve", label, (_WIDTH, 230.0), draw)


def loss_curves(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw the loss against the round: a thin line per client, a thick one for the mean."""
    clients = client_series(rounds)
    mean = [(entry["round"], entry["loss"]) for entry in rounds]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_CURVE_AREA)
        _style_curve(axes, [number for number, _ in mean], "loss")
        for client_id, role in clients.items():
            line = [
                (entry["round"], client["loss"])
                for entry in rounds
                for client in entry["clients"]
                if client["client_id"] == client_id
            ]
            color, name = COLORS[role], plain(client_id, 60)
            axes.plot(*zip(*line, strict=True), color=color, linewidth=1.3, gid=tip(name))
            _draw_points(axes, line, f"loss of {name}", color, size=3.0)
        axes.plot(*zip(*mean, strict=True), color=COLORS["chart-ink"], linewidth=2.6)
        _draw_points(axes, mean, "mean loss", COLORS["chart-ink"])
        axes.margins(y=0.12)

    label = f"Loss per round, mean from {mean[0][1]:.4f} to {mean[-1][1]:.4f}"
    return draw_svg("loss-curves", label, (_WIDTH, 230.0), draw)


def client_series(rounds: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Give each client its color role; all are muted where there are more clients than colors."""
    names = sorted({client["client_id"] for entry in rounds for client in entry["clients"]})
    if len(names) > NUM_SERIES:
        return dict.fromkeys(names, "chart-muted")
    return {name: f"series-{number}" for number, name in enumerate(names, start=1)}


def class_bars(per_class_iou: Mapping[str, float | None]) -> str:
    """Draw the IoU of each class, best first; classes that do not occur come last."""
    ordered = sorted(
        per_class_iou.items(), key=lambda item: -1.0 if item[1] is None else item[1], reverse=True
    )
    bars = [
        (plain(name), value or 0.0, "does not occur" if value is None else formatting.score(value))
        for name, value in ordered
    ]
    return _bars("class-bars", "IoU per class", bars)


def cluster_bars(shares: Sequence[float], names: Sequence[str]) -> str:
    """Draw the share of pixels in each cluster, largest first."""
    ordered = sorted(zip(shares, names, strict=True), key=lambda pair: pair[0], reverse=True)
    bars = [(plain(name), share, formatting.share(share)) for share, name in ordered]
    return _bars("cluster-bars", "Share of pixels per cluster", bars)


def confusion_heatmap(
    confusion: Sequence[Sequence[int]], matching: Sequence[int], class_names: Sequence[str]
) -> str:
    """Draw how each cluster's pixels spread over the classes, clusters in the order of matching.

    Args:
        confusion: Pixels per cluster (row) and class (column).
        matching: Class of each cluster, -1 where it has none; such clusters come last.
        class_names: In the order of the columns.
    """
    names = cluster_names(matching, class_names)
    order = sorted(
        range(len(confusion)), key=lambda cluster: (matching[cluster] < 0, matching[cluster])
    )
    numbered = max(len(confusion), len(class_names)) <= _MAX_NUMBERED

    rows = [plain(names[cluster], 24) for cluster in order]
    columns = [plain(name, 18) for name in class_names]
    side = 27 if numbered else 17
    grid = (side * len(columns), side * len(rows))
    # the labels of the columns lean to the right at 60 degrees
    longest = max(map(text_width, columns))
    left, top, right = 8 + max(map(text_width, rows)), 14 + 0.87 * longest, 8 + 0.5 * longest
    size = (left + grid[0] + right, top + grid[1] + 4)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((left / size[0], 4 / size[1], grid[0] / size[0], grid[1] / size[1]))
        for row, cluster in enumerate(order):
            matched = matching[cluster]
            _draw_cells(axes, row, confusion[cluster], names[cluster], class_names, numbered)
            if matched >= 0:
                axes.add_patch(_cell(matched, row, facecolor="none", edgecolor=COLORS["chart-ink"]))
        _style_heatmap(axes, rows, columns)

    label = "Classes of each cluster's pixels, in percent of the cluster"
    return draw_svg("confusion", label, size, draw)


def cluster_names(matching: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Name each cluster by its number (from 0) and the class it is matched with."""
    return [
        f"{cluster} → {class_names[matched]}" if matched >= 0 else f"{cluster} (unmatched)"
        for cluster, matched in enumerate(matching)
    ]


def _scored(entry: Mapping[str, Any]) -> bool:
    return entry["mean_iou"] is not None


def _style_curve(axes: Axes, numbers: Sequence[int], label: str) -> None:
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.set_xlim(min(numbers) - 0.4, max(numbers) + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    axes.spines[["top", "left", "right"]].set_visible(False)


def _draw_points(
    axes: Axes, points: Sequence[tuple[int, float]], label: str, color: str, size: float = 5.0
) -> None:
    if len(points) > _MAX_POINTS:
        return
    for number, value in points:
        text = tip(f"round {number}, {label}: {value:.4f}")
        axes.plot(number, value, "o", color=color, markersize=size, gid=text)


def _bars(name: str, label: str, bars: Sequence[tuple[str, float, str]]) -> str:
    left = 8 + max(text_width(bar_name) for bar_name, _, _ in bars)
    height = 8.0 + 21 * len(bars)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((left / _WIDTH, 4 / height, 1 - left / _WIDTH, 1 - 8 / height))
        longest = max([0.02, *(value for _, value, _ in bars)])
        for row, (bar_name, value, text) in enumerate(bars):
            gid = tip(f"{bar_name}: {text}")
            axes.barh(row, value, height=0.62, color=COLORS["chart-accent"], gid=gid)
            axes.annotate(
                text, (value, row), (5, 0), textcoords="offset points", va="center", fontsize=10
            )
        axes.set_xlim(0, 1.22 * longest)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_yticks(range(len(bars)), [bar_name for bar_name, _, _ in bars])
        axes.set_xticks([])
        axes.tick_params(length=0, pad=6, labelcolor=COLORS["chart-ink"])
        axes.spines[["top", "bottom", "right"]].set_visible(False)
        axes.spines["left"].set_color(COLORS["chart-grid"])

    values = "; ".join(f"{bar_name} {text}" for bar_name, _, text in bars)
    return draw_svg(name, f"{label}: {values}", (_WIDTH, height), draw)


def _draw_cells(
    axes: Axes,
    row: int,
    counts: Sequence[int],
    cluster: str,
    class_names: Sequence[str],
    numbered: bool,
) -> None:
    total = max(1, sum(counts))
    for column, (pixels, class_name) in enumerate(zip(counts, class_names, strict=True)):
        share = pixels / total
        text = f"{cluster}: {formatting.share(share)} {class_name}, {pixels:,} pixels"
        heat = COLORS["chart-heat"]
        cell = _cell(column, row, facecolor=heat, edgecolor="none", alpha=share)
        cell.set_gid(tip(plain(text, 120)))
        axes.add_patch(cell)
        if numbered and share >= 0.005:
            ink = COLORS["chart-on-heat" if share > 0.8 else "chart-ink"]
            axes.text(
                column, row, f"{100 * share:.0f}", color=ink, ha="center", va="center", fontsize=10
            )


def _cell(column: int, row: int, **style: Any) -> Rectangle:  # noqa: ANN401 - matplotlib's own
    return Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, linewidth=1.6, **style)


def _style_heatmap(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)
    axes.tick_params(length=0, pad=4, top=True, labeltop=True, labelbottom=False)
    axes.tick_params(axis="x", labelrotation=60, labelcolor=COLORS["chart-ink"])
    axes.tick_params(axis="y", labelcolor=COLORS["chart-ink"])
    for text in axes.get_xticklabels():
        text.set(ha="left", rotation_mode="anchor")
    axes.spines[:].set_visible(False)
