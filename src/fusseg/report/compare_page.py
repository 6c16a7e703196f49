"""One self-contained page that compares runs."""

from collections.abc import Sequence

from markupsafe import Markup

from fusseg.core.version import VERSION
from fusseg.report import comparison, numbers
from fusseg.report.comparison import ComparedRun
from fusseg.report.comparison_figures import Curve, overlaid_curves
from fusseg.report.scored import name_scored
from fusseg.report.templates import render_page


def render_comparison(runs: Sequence[ComparedRun], command: str) -> str:
    """Write the page; the same input gives the same bytes.

    Args:
        runs: At least two, in the order in which they are shown.
        command: What writes this page again.

    Returns:
        HTML whose only references are the links to the runs' own reports.
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
        classes=comparison.class_table(runs),
        sites=comparison.site_table(runs),
        settings={key: [comparison.setting(run, key) for run in runs] for key in changed},
        figures={name: Markup(svg) for name, svg in _draw_figures(runs).items()},
    )


_WAYS = ("up", "down")


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
        (entry["round"], entry[name]) for entry in run.record["rounds"] if entry[name] is not None
    ]
