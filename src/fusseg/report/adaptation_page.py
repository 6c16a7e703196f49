"""One self-contained page about a run before and after its adaptation to new images."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fusseg.core.version import VERSION
from fusseg.report import figures
from fusseg.report.numbers import cluster_names
from fusseg.report.quality_page import PicturedImage, picture_cards
from fusseg.report.templates import render_page
from fusseg.runs.regions import Regions


def render_adaptation(
    record: Mapping[str, Any], regions: Regions, pictured: Sequence[PicturedImage]
) -> str:
    """Write the page; the same input gives the same bytes.

    Args:
        record: Content of the adapted run's `record.json`.
        regions: Names and colors of the regions.
        pictured: Example images.
    """
    names = cluster_names(regions.num_clusters, regions.names)
    shares = record["final"]["quality"]["cluster_share"]
    return render_page(
        "adaptation.html.j2",
        ("page.js",),
        title=f"{record['name']}: fitted to new images",
        version=VERSION,
        record=record,
        adapted=record["adapted"],
        before=record["adapted"]["before"],
        after=record["final"],
        regions=list(zip(names, record["adapted"]["regions"], strict=True)),
        legend=regions.legend,
        figure=Markup(figures.cluster_bars(shares, names)),
        cards=picture_cards(pictured),
    )
