"""One self-contained page that suggests a number of regions."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fusseg.core.version import VERSION
from fusseg.evaluation.cluster_number import STABLE, Judged, Suggestion
from fusseg.report.svg import COLORS, draw_svg, tip
from fusseg.report.templates import render_page

_SIZE = (470.0, 250.0)
_AREA = (0.13, 0.18, 0.83, 0.78)
_FIGURES = (
    ("stability", "Stability: adjusted Rand index of two clusterings on held-back images"),
    ("silhouette", "Silhouette by cosine on held-back images"),
    ("mean_cosine", "Mean cosine to the nearest centroid on held-back images"),
)


def render_suggestion(
    judged: Sequence[Judged], suggestion: Suggestion, data: str, notes: Sequence[str], command: str
) -> str:
    """Write the page; the same input gives the same bytes.

    Args:
        judged: The tried numbers of regions, with their figures.
        suggestion: The suggested numbers.
        data: Name of the data.
        notes: Sentences about the images and settings that were used.
        command: Command that writes this page again.
    """
    return render_page(
        "suggestion.html.j2",
        ("page.js",),
        title=f"How many regions: {data}",
        version=VERSION,
        judged=judged,
        suggestion=suggestion,
        stable_from=STABLE,
        notes=notes,
        command=command,
        figures=[
            (caption, Markup(draw_candidates(judged, suggestion, name)))
            for name, caption in _FIGURES
        ],
    )


def draw_candidates(judged: Sequence[Judged], suggestion: Suggestion, name: str) -> str:
    """Draw one figure of merit against the number of regions, as an SVG element.

    Args:
        judged: The tried numbers of regions, with their figures.
        suggestion: The suggestion to mark.
        name: Field of `Judged` to draw.
    """
    points = [(one.num_clusters, getattr(one, name)) for one in judged]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_AREA)
        if name == "stability":
            _draw_spread(axes, judged)
        axes.plot(*zip(*points, strict=True), color=COLORS["chart-accent"], linewidth=2)
        for number, value in points:
            chosen = number == suggestion.finest
            axes.plot(
                number,
                value,
                "D" if chosen else "o",
                color=COLORS["chart-ink" if chosen else "chart-accent"],
                markersize=8 if chosen else 4,
                gid=tip(f"K {number}: {value:.3f}" + (", suggested" if chosen else "")),
            )
        axes.set_xlabel("K")
        axes.set_ylabel(name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.grid(axis="y", linewidth=1)
        axes.tick_params(length=0, pad=5)
        axes.spines[["top", "left", "right"]].set_visible(False)

    values = ", ".join(f"{number}: {value:.3f}" for number, value in points)
    return draw_svg(f"{name.replace('_', '-')}-curve", f"{name} by K: {values}", _SIZE, draw)


def _draw_spread(axes: Axes, judged: Sequence[Judged]) -> None:
    numbers = [one.num_clusters for one in judged]
    low = [one.stability - one.spread for one in judged]
    high = [one.stability + one.spread for one in judged]
    axes.fill_between(numbers, low, high, color=COLORS["chart-accent"], alpha=0.15, linewidth=0)
    axes.axhline(STABLE, color=COLORS["chart-muted"], linewidth=1, linestyle="--")
