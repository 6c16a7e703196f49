"""One self-contained page that compares runs."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusseg.core.version import VERSION
from fusseg.report import comparison, numbers
from fusseg.report.comparison import ComparedRun
from fusseg.report.figures import style_curve
from fusseg.report.formatting import name_scored
from fusseg.report.svg import COLORS, NUM_SERIES, draw_svg, tip
from fusseg.report.templates import render_page

_SIZE = (470.0, 270.0)
_AREA = (0.14, 0.17, 0.78, 0.79)
_DASHES = ("-", "--", ":", "-.")
_LETTER_HEIGHT = 0.055
"""Height of a letter as a share of the axes, to avoid overlapping letters."""
_WAYS = ("up", "down")
Curve = Sequence[tuple[int, float]]


def render_comparison(runs: Sequence[ComparedRun], command: str) -> str:
    """Write the page; the same input gives the same bytes.

    Args:
        runs: At least two runs, in the order in which they are shown.
        command: Command that writes this page again.

    Returns:
        HTML with no references except links to the runs' own reports.
    """
    groups = comparison.group_runs(runs)
    changed = comparison.changed_keys(runs)
    return render_page(
        "compare.html.j2",
        ("page.js",),
        title=f"{len(runs)} runs compared",
        version=VERSION,
        runs=runs,
        command=command,
        scored=name_scored([run.held_out for run in runs]),
        caveats=comparison.find_caveats(runs),
        groups=groups,
        grouped=any(len(group.runs) > 1 for group in groups),
        site_spreads={run.key: numbers.site_spread(run.record, "mean_iou") for run in runs},
        traffic={
            run.key: {name: numbers.total_bytes(run.record, f"bytes_{name}") for name in _WAYS}
            for run in runs
        },
        rounds={run.key: numbers.counted_rounds(run.record["rounds"]) for run in runs},
        classes=comparison.class_table(runs),
        sites=comparison.site_table(runs),
        settings={key: [comparison.setting(run, key) for run in runs] for key in changed},
        figures={name: Markup(svg) for name, svg in _draw_figures(runs).items()},
    )


def _draw_figures(runs: Sequence[ComparedRun]) -> dict[str, str]:
    drawn = {}
    for name, label, zero in (("mean_iou", "mIoU", True), ("loss", "loss", False)):
        curves = {run.key: _curve(run, name) for run in runs}
        if any(curves.values()):
            identifier = name.replace("_", "-") + "-curves"
            drawn[name] = overlaid_curves(identifier, label, curves, zero=zero)
    return drawn


def _curve(run: ComparedRun, name: str) -> Curve:
    return [
        (entry["round"], entry[name])
        for entry in run.record["rounds"]
        if entry[name] is not None and not numbers.is_choice(entry)
    ]


def overlaid_curves(name: str, label: str, curves: Mapping[str, Curve], *, zero: bool) -> str:
    """Draw one line per run against the round.

    Args:
        name: Prefix of the element's ids, unique on the page.
        label: Label of the axis.
        curves: Rounds and values by the run's letter; runs without a point are left out.
        zero: Whether the axis begins at 0.
    """
    drawn = {key: curve for key, curve in curves.items() if curve}

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_AREA)
        for place, key in enumerate(curves):
            if key in drawn:
                _draw_curve(axes, place, key, label, drawn[key])
        rounds = [number for curve in drawn.values() for number, _ in curve]
        style_curve(axes, rounds, label)
        if zero:
            axes.set_ylim(0, 1.1 * max(0.05, axes.dataLim.y1))
        else:
            axes.margins(y=0.08)
        _name_ends(axes, drawn)

    ends = "; ".join(f"{key} {curve[-1][1]:.3f}" for key, curve in drawn.items())
    return draw_svg(name, f"{label} per round, last values: {ends}", _SIZE, draw)


def _draw_curve(axes: Axes, place: int, key: str, label: str, curve: Curve) -> None:
    color = COLORS[f"series-{place % NUM_SERIES + 1}"]
    style = _DASHES[place // NUM_SERIES % len(_DASHES)]
    axes.plot(*zip(*curve, strict=True), style, color=color, linewidth=2.0, gid=tip(key))
    for number, value in curve if len(curve) <= 40 else ():
        text = tip(f"{key}, round {number}, {label}: {value:.4f}")
        axes.plot(number, value, "o", color=color, markersize=4, gid=text)


def _name_ends(axes: Axes, curves: Mapping[str, Curve]) -> None:
    """Write each letter at the height of its line's end, or as close as the others allow."""
    low, high = axes.get_ylim()
    heights = {key: (curve[-1][1] - low) / (high - low) for key, curve in curves.items()}
    ordered = sorted(heights, key=lambda key: heights[key])
    taken = -_LETTER_HEIGHT
    places = {}
    for key in ordered:
        taken = places[key] = max(heights[key], taken + _LETTER_HEIGHT)
    # Letters pushed above the top are moved down again, starting from the top.
    ceiling = 1.0
    for key in reversed(ordered):
        places[key] = min(places[key], ceiling)
        ceiling = places[key] - _LETTER_HEIGHT
    right = axes.get_xlim()[1]
    for key, place in places.items():
        axes.annotate(
            key,
            (curves[key][-1][0], curves[key][-1][1]),
            (right, low + place * (high - low)),
            ha="left",
            va="center",
            fontweight="bold",
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": COLORS["chart-muted"], "linewidth": 0.6},
        )
