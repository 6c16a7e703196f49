"""One self-contained page about the quality of a run without labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fusseg.core.version import VERSION
from fusseg.evaluation.quality import average_quality
from fusseg.evaluation.stability import Judgement
from fusseg.report import figures
from fusseg.report.embedding import photo_uri, regions_uri
from fusseg.report.numbers import cluster_names
from fusseg.report.svg import COLORS, draw_svg, tip
from fusseg.report.templates import render_page
from fusseg.runs.regions import Regions

_SIZE = (470.0, 220.0)
_AREA = (0.12, 0.2, 0.84, 0.74)
_BINS = 20


@dataclass(frozen=True)
class PicturedImage:
    """One image of a page, with the segmentations of one or two models."""

    site: str
    stem: str
    value: str
    """Text shown next to its name."""
    layers: dict[str, UInt8[np.ndarray, "height width 3"]]
    """The photo under `Image`, and colored regions."""


@dataclass(frozen=True)
class QualityText:
    """Names and commands of the quality page."""

    name: str
    other: str | None
    """Name of the run to compare with."""
    command: str
    """Command that writes the page again."""
    second: str
    """Commands that train a second run and compare the two."""


def render_quality(
    judgement: Judgement,
    pictured: Sequence[PicturedImage],
    regions: Regions,
    text: QualityText,
) -> str:
    """Write the page; the same input gives the same bytes.

    Args:
        judgement: Figures of the run and its images.
        pictured: Images to show, least confident or least stable first.
        regions: Names and colors of the run's regions.
        text: Names and commands.
    """
    agreements = [one.agreement for one in judgement.images if one.agreement is not None]
    shares = judgement.overall.cluster_share.tolist()
    names = cluster_names(len(shares), regions.names)
    drawn = [("Share of positions per region", figures.cluster_bars(shares, names))]
    if agreements:
        drawn.append(("Adjusted Rand index of each image", _histogram("agreement", agreements)))
    margins = [average_quality([image.sums]).mean_margin for image in judgement.images]
    drawn.append(("Mean margin of each image", _histogram("margin", margins)))
    return render_page(
        "quality.html.j2",
        ("page.js",),
        title=f"{text.name} without labels",
        version=VERSION,
        text=text,
        judgement=judgement,
        shares=shares,
        names=names,
        legend=regions.legend,
        agreement_mean=fmean(agreements) if agreements else None,
        agreement_median=median(agreements) if agreements else None,
        figures=[(caption, Markup(svg)) for caption, svg in drawn],
        cards=picture_cards(pictured),
    )


def picture_cards(pictured: Sequence[PicturedImage]) -> list[dict[str, object]]:
    """Embed images for the template `pictures.html.j2`."""
    return [
        {
            "site": one.site,
            "stem": one.stem,
            "value": one.value,
            "layers": {
                name: (photo_uri if name == "Image" else regions_uri)(layer)
                for name, layer in one.layers.items()
            },
        }
        for one in pictured
    ]


def _histogram(name: str, values: Sequence[float]) -> str:
    """Draw a histogram of the images' values."""
    counts, edges = np.histogram(values, bins=_BINS)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(_AREA)
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            text = tip(f"{low:.3f} to {high:.3f}: {count} images")
            width = 0.92 * (high - low)
            axes.bar(low, count, width, align="edge", color=COLORS["chart-accent"], gid=text)
        axes.set_xlabel(name)
        axes.set_ylabel("images")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(length=0, pad=5)
        axes.spines[["top", "left", "right"]].set_visible(False)

    label = f"{name} of {len(values)} images, from {min(values):.3f} to {max(values):.3f}"
    return draw_svg(f"{name}-histogram", label, _SIZE, draw)
