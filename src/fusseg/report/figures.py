"""The figures of a run's report, each as the text of an SVG element."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fusseg.report import formatting, numbers
from fusseg.report.svg import (
    COLORS,
    MARKERS,
    NUM_SERIES,
    draw_svg,
    plain,
    series_mark,
    text_width,
    tip,
)

_WIDTH = 400.0
_CURVE_AREA = (0.165, 0.19, 0.795, 0.77)
_MAX_POINTS = 40
"""Most rounds for which every round gets its own mark."""


def mean_iou_curve(rounds: Sequence[Mapping[str, Any]], *, start_kept: bool = False) -> str:
    """Draw the mIoU of each scored round; the number of the model that is kept stands beside it."""
    points = [
        (entry["round"], entry["mean_iou"])
        for entry in rounds
        if entry["mean_iou"] is not None and not numbers.is_choice(entry)
    ]
    place = 0 if start_kept else -1

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_CURVE_AREA)
        style_curve(axes, [number for number, _ in points], "mIoU")
        axes.plot(*zip(*points, strict=True), color=COLORS["chart-accent"], linewidth=2.4)
        _draw_points(axes, points, "mIoU", COLORS["chart-accent"])
        axes.set_ylim(0, 1.18 * max([0.05, *(value for _, value in points)]))
        axes.annotate(
            formatting.score(points[place][1]),
            points[place],
            (0, 8),
            textcoords="offset points",
            ha="left" if start_kept else "right",
            fontweight="bold",
        )

    label = f"mIoU per round, from {points[0][1]:.3f} to {points[-1][1]:.3f}"
    label += "; the first was kept" if start_kept else ""
    return draw_svg("miou-curve", label, (_WIDTH, 230.0), draw)


def loss_curves(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw the loss of each round: a thin line per client, a thick one for the mean."""
    clients = client_series(rounds)
    mean = [(entry["round"], entry["loss"]) for entry in rounds]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_CURVE_AREA)
        style_curve(axes, [number for number, _ in mean], "loss")
        for place, (client_id, role) in enumerate(clients.items()):
            line = [
                (entry["round"], client["loss"])
                for entry in rounds
                for client in entry["clients"]
                if client["client_id"] == client_id and client["loss"] is not None
            ]
            if not line:
                # With secure sums only the mean of all clients is known.
                continue
            color, name = COLORS[role], plain(client_id, 60)
            axes.plot(*zip(*line, strict=True), color=color, linewidth=1.3, gid=tip(name))
            marker = None if role == "chart-muted" else MARKERS[series_mark(place)[0]]
            _draw_points(axes, line, f"loss of {name}", color, size=4.0, marker=marker)
        axes.plot(*zip(*mean, strict=True), color=COLORS["chart-ink"], linewidth=2.6)
        _draw_points(axes, mean, "mean loss", COLORS["chart-ink"])
        axes.margins(y=0.12)

    label = f"Loss per round, mean from {mean[0][1]:.4f} to {mean[-1][1]:.4f}"
    return draw_svg("loss-curves", label, (_WIDTH, 230.0), draw)


def client_series(rounds: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Assign a color role to each client; all are muted if there are more clients than colors."""
    names = sorted({client["client_id"] for entry in rounds for client in entry["clients"]})
    if len(names) > NUM_SERIES:
        return dict.fromkeys(names, "chart-muted")
    return {name: f"series-{number}" for number, name in enumerate(names, start=1)}


def class_bars(per_class_iou: Mapping[str, float | None]) -> str:
    """Draw the IoU of each class, best first; absent classes come last."""
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


def traffic_bars(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw the bytes of each round: filled bars for sent, hollow bars for received by clients."""
    names = {entry["round"]: numbers.round_name(entry) for entry in rounds}
    width = 0.38
    kinds = (("bytes_up", -width / 2, "sent"), ("bytes_down", width / 2, "received"))

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_CURVE_AREA)
        largest = max(1, *(entry[name] for entry in rounds for name, _, _ in kinds))
        unit, divisor = formatting.byte_unit(largest)
        style_curve(axes, list(names), unit)
        axes.xaxis.set_major_formatter(lambda place, _: names.get(round(place), f"{place:.0f}"))
        for name, shift, word in kinds:
            face = COLORS["chart-accent"] if name == "bytes_up" else "none"
            for entry in rounds:
                text = f"{_round_text(entry)}: {entry[name]:,} bytes {word}"
                axes.bar(
                    entry["round"] + shift,
                    entry[name] / divisor,
                    width=width,
                    facecolor=face,
                    edgecolor=COLORS["chart-accent"],
                    linewidth=1.2,
                    gid=tip(text),
                )
        axes.set_xlim(min(names) - 0.6, max(names) + 0.6)
        axes.set_ylim(0, 1.1 * largest / divisor)

    totals = [sum(entry[name] for entry in rounds) for name, _, _ in kinds]
    label = f"Bytes per round; {totals[0]:,} sent and {totals[1]:,} received in all"
    return draw_svg("traffic-bars", label, (_WIDTH, 230.0), draw)


def style_curve(axes: Axes, numbers: Sequence[int], label: str) -> None:
    """Style the axes of a curve over rounds, alike on all pages.

    Args:
        axes: The axes, before or after drawing the curve.
        numbers: Numbers of the rounds.
        label: Label of the vertical axis.
    """
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.set_xlim(min(numbers) - 0.4, max(numbers) + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    axes.spines[["top", "left", "right"]].set_visible(False)


def _round_text(entry: Mapping[str, Any]) -> str:
    name = numbers.round_name(entry)
    return name if numbers.is_choice(entry) else f"round {name}"


def _draw_points(
    axes: Axes,
    points: Sequence[tuple[int, float]],
    label: str,
    color: str,
    size: float = 5.0,
    marker: str | None = None,
) -> None:
    """Mark the rounds; in a long training only some, and only if marks distinguish the lines."""
    if len(points) > _MAX_POINTS and marker is None:
        return
    for number, value in points[:: 1 + len(points) // _MAX_POINTS]:
        text = tip(f"round {number}, {label}: {value:.4f}")
        axes.plot(number, value, marker or "o", color=color, markersize=size, gid=text)


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
