"""PNG figures about many runs: panels of images, projections, curves with their spread."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import matplotlib.style
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fusseg.report.svg import plain

Color = tuple[int, int, int]
_DPI = 110
_STYLES = ("-", "--", ":", "-.")
_NUM_COLORS = 10
_BESIDE = 0.07
"""Distance between the points of two lines in a column of the ladder."""


@dataclass(frozen=True)
class Cloud:
    """Projected centroids of one method in one round."""

    points: Float[np.ndarray, "points 2"]
    colors: UInt8[np.ndarray, "points 3"]
    shared: Bool[np.ndarray, " points"]
    """Whether a point belongs to the server; the others belong to clients."""


_NAME_LETTERS, _NAME_INCHES = 40, 2.6
"""Most letters of a row's name, and the width reserved for it."""


def panels_png(
    rows: Mapping[str, Sequence[UInt8[np.ndarray, "_ _ 3"]]], legend: Mapping[str, Color]
) -> bytes:
    """Draw rows of images: photos, labels, and the segmentations of each method.

    Args:
        rows: Images by the name of the row; the same number in each.
        legend: RGB color of each class.
    """
    num = len(next(iter(rows.values())))
    height, width, _ = next(iter(rows.values()))[0].shape
    side = 2.2
    tall = (side * height / width + 0.06) * len(rows) + 0.6
    figure = Figure(figsize=(_NAME_INCHES + num * side, tall), dpi=_DPI)
    grid = figure.subplots(len(rows), num, squeeze=False)
    for axes_row, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(axes_row, images, strict=True):
            axes.imshow(image, interpolation="nearest", aspect="auto")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        short = plain(name, _NAME_LETTERS)
        axes_row[0].set_ylabel(short, rotation=0, ha="right", va="center", fontsize=8)
    _legend(figure, legend)
    bottom = 0.5 / figure.get_figheight()
    left = _NAME_INCHES / figure.get_figwidth()
    figure.subplots_adjust(
        left=left, right=0.995, top=0.995, bottom=bottom, wspace=0.02, hspace=0.02
    )
    return _png(figure)


def clouds_png(
    clouds: Mapping[str, Mapping[int, Cloud]], legend: Mapping[str, Color], kind: str
) -> bytes:
    """Draw centroids: a column per method, a row per round.

    Args:
        clouds: Projected centroids by method and round; the same rounds for all methods.
        legend: RGB color of each class.
        kind: Name of the projection.
    """
    rounds = sorted({number for by_round in clouds.values() for number in by_round})
    figure = Figure(figsize=(3.0 * len(clouds), 2.9 * len(rounds) + 0.7), dpi=_DPI)
    grid = figure.subplots(len(rounds), len(clouds), squeeze=False)
    for column, (method, by_round) in enumerate(clouds.items()):
        # One projection per method: all its rounds share their axes.
        everything = np.concatenate([cloud.points for cloud in by_round.values()])
        low, high = everything.min(axis=0), everything.max(axis=0)
        margin = 0.05 * np.maximum(high - low, 1e-9)
        for row, number in enumerate(rounds):
            axes = grid[row, column]
            axes.set(xticks=[], yticks=[])
            axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
            axes.spines[:].set_color("#bbbbbb")
            if row == 0:
                axes.set_title(plain(method, 34), fontsize=9)
            if column == 0:
                axes.set_ylabel(f"round {number}", fontsize=9)
            if number in by_round:
                _draw_cloud(axes, by_round[number])
    figure.suptitle(
        f"{kind} of unit centroids: small dots are the clients', large rings the server's",
        fontsize=9,
    )
    _legend(figure, legend)
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.07, right=0.99, top=1 - 0.6 / height, bottom=0.5 / height, wspace=0.05, hspace=0.05
    )
    return _png(figure)


def seed_curves_png(series: Mapping[str, Mapping[int, Sequence[float]]], finish: int) -> bytes:
    """Draw mIoU per round: the mean over seeds, and one standard deviation around it.

    Args:
        series: Values in [0, 1] of all seeds, by method and round.
        finish: Last round of training; the Lloyd finish begins after it.
    """
    figure = Figure(figsize=(8.4, 4.2), dpi=_DPI)
    axes = figure.add_axes((0.07, 0.12, 0.58, 0.84))
    with matplotlib.style.context("default"):
        for number, (method, by_round) in enumerate(series.items()):
            color = f"C{number % _NUM_COLORS}"
            style = _STYLES[number // _NUM_COLORS % len(_STYLES)]
            rounds = sorted(by_round)
            means = np.array([100 * fmean(by_round[one]) for one in rounds])
            stds = np.array(
                [100 * stdev(by_round[one]) if len(by_round[one]) > 1 else 0.0 for one in rounds]
            )
            marker = "o" if len(rounds) == 1 else None
            axes.plot(
                rounds, means, style, marker=marker, color=color, label=plain(method, 40), lw=1.6
            )
            axes.fill_between(rounds, means - stds, means + stds, color=color, alpha=0.12, lw=0)
    last = max(number for by_round in series.values() for number in by_round)
    if last > finish > 0:
        axes.axvline(finish + 0.5, color="#888888", linewidth=0.8)
        axes.annotate(
            "Lloyd finish",
            (finish + 0.5, 0.99),
            (4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color="#555555",
        )
    axes.set_xlabel("round")
    axes.set_ylabel("mIoU (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e4e3dd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    return _png(figure)


def ladder_png(series: Mapping[str, Sequence[Sequence[float]]], steps: Sequence[str]) -> bytes:
    """Draw mIoU over the columns of a grid: the mean over seeds, and one standard deviation.

    Args:
        series: Values in [0, 1] of all seeds, by line and column; none for a missing cell.
        steps: Names of the columns.
    """
    figure = Figure(figsize=(8.4, 4.6), dpi=_DPI)
    axes = figure.add_axes((0.07, 0.27, 0.72, 0.69))
    with matplotlib.style.context("default"):
        for number, (method, columns) in enumerate(series.items()):
            places = [place for place, values in enumerate(columns) if values]
            # Beside each other, since lines may have equal scores.
            beside = _BESIDE * (number - (len(series) - 1) / 2)
            axes.errorbar(
                [place + beside for place in places],
                [100 * fmean(columns[place]) for place in places],
                [100 * stdev(columns[place]) if len(columns[place]) > 1 else 0 for place in places],
                color=f"C{number % _NUM_COLORS}",
                linestyle=_STYLES[number // _NUM_COLORS % len(_STYLES)],
                marker="o",
                capsize=3,
                lw=1.6,
                label=plain(method, 40),
            )
    axes.set_xticks(range(len(steps)), [plain(step, 40) for step in steps], rotation=35, ha="right")
    axes.set_ylabel("mIoU (%)")
    axes.grid(color="#e4e3dd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    return _png(figure)


def _draw_cloud(axes, cloud: Cloud) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    colors = cloud.colors / 255
    own = ~cloud.shared
    axes.scatter(*cloud.points[own].T, c=colors[own], s=14, linewidths=0, alpha=0.75)
    axes.scatter(
        *cloud.points[cloud.shared].T,
        facecolors="none",
        edgecolors=colors[cloud.shared],
        s=90,
        linewidths=2,
    )


def _legend(figure: Figure, legend: Mapping[str, Color]) -> None:
    handles = [
        Patch(facecolor=(color[0] / 255, color[1] / 255, color[2] / 255), label=plain(name))
        for name, color in legend.items()
    ]
    columns = max(1, int(figure.get_figwidth() / 1.15))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        fontsize=7,
        frameon=False,
        handlelength=1,
        columnspacing=1,
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
