"""Draw Matplotlib figures as inline SVG, with colors and font taken from the surrounding page."""

import io
import re
import warnings
from collections.abc import Callable
from types import MappingProxyType
from typing import Final
from unicodedata import east_asian_width
from xml.etree import ElementTree as ET

import matplotlib.style
from matplotlib.figure import Figure

NUM_SERIES = 6
"""Number of series colors on a page; colors repeat beyond it."""
SHAPES = (
    "M-8 0A8 8 0 1 0 8 0A8 8 0 1 0 -8 0Z",
    "M-7 -7H7V7H-7Z",
    "M0 -9L9 7H-9Z",
    "M0 -10L10 0L0 10L-10 0Z",
    "M-3 -9H3V-3H9V3H3V9H-3V3H-9V-3H-3Z",
    "M0 9L9 -7H-9Z",
)
"""SVG paths around the origin: circle, square, triangle, diamond, plus, triangle on its tip."""
MARKERS = ("o", "s", "^", "D", "P", "v")
"""Matplotlib's names of the same shapes."""
# Matplotlib wants fixed colors, the page has one set for light and one for dark: figures are drawn
# in these stand-ins, which become the page's variables.
_ROLES = (
    "chart-ink",
    "chart-muted",
    "chart-grid",
    "chart-accent",
    *(f"series-{number}" for number in range(1, NUM_SERIES + 1)),
)
COLORS: Final = MappingProxyType({role: f"#{7 * i + 7:06x}" for i, role in enumerate(_ROLES)})
"""Colors to draw with, by their role on the page."""
_VARIABLES = {color: f"var(--{role})" for role, color in COLORS.items()}
_TIP = "tip:"
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


def tip(text: str) -> str:
    """Make the `gid` of an artist that shows a text on hover."""
    return _TIP + text


def plain(text: str, longest: int = 22) -> str:
    r"""Make an untrusted name fit for a figure: printable, on one line, not too long.

    >>> plain("north\nmine, level 3, gallery 12")
    'north mine, level 3, …'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def text_width(text: str) -> float:
    """Estimate the largest width of a text in CSS pixels, at the figures' font size."""
    cells = sum(1.7 if east_asian_width(letter) in "WF" else 1.0 for letter in text)
    return 7.0 * cells


def draw_svg(
    name: str, label: str, size: tuple[float, float], draw: Callable[[Figure], None]
) -> str:
    """Draw a figure as an SVG element; the same drawing gives the same text.

    Args:
        name: Prefix of the element's ids, unique on the page.
        label: Text for screen readers.
        size: Width and height in CSS pixels at natural size.
        draw: Function that draws on an empty figure.
    """
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 11,
        "text.parse_math": False,
        "text.color": COLORS["chart-ink"],
        "axes.labelcolor": COLORS["chart-muted"],
        "axes.edgecolor": COLORS["chart-muted"],
        "xtick.color": COLORS["chart-muted"],
        "ytick.color": COLORS["chart-muted"],
        "grid.color": COLORS["chart-grid"],
    }
    buffer = io.StringIO()
    with matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        # the browser draws the text; matplotlib's own font only measures it
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        draw(figure)
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    root = ET.fromstring(buffer.getvalue())
    _adapt(root, name)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": label,
        "style": f"max-width: {1.4 * size[0]:.0f}px",
    }
    return ET.tostring(root, encoding="unicode")


def _adapt(root: ET.Element, name: str) -> None:
    """Remove what an inline SVG must not contain, and use the page's colors and font."""
    for parent in root.iter():
        for child in list(parent):
            if child.find(f"{_SVG}style") is not None:
                parent.remove(child)
    for element in list(root.iter()):
        element.tag = element.tag.removeprefix(_SVG)
        if element.tag != "text":
            element.text = None
        element.tail = None
        _adapt_attributes(element.attrib, name)
        own = element.attrib.pop("id", "")
        if own.startswith(_TIP):
            title = ET.Element("title")
            title.text = own.removeprefix(_TIP)
            element.insert(0, title)
        elif element.tag in ("path", "clipPath") and own:
            element.set("id", f"{name}-{own}")


def _adapt_attributes(attributes: dict[str, str], name: str) -> None:
    if _HREF in attributes:
        attributes["href"] = f"#{name}-{attributes.pop(_HREF)[1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("(#", f"(#{name}-")
    if "style" in attributes:
        style = re.sub(r" ?font-family: [^;]*;?", "", attributes["style"])
        attributes["style"] = re.sub(
            r"#\w{6}", lambda match: _VARIABLES.get(match[0], match[0]), style
        )
    if "d" in attributes:
        attributes["d"] = attributes["d"].replace("\n", "")


def series_mark(number: int) -> tuple[int, int]:
    """Choose the shape and color of a series; all are numbered from 0.

    Once the colors repeat, the shapes shift against them, so the first 36 marks all differ.

    >>> series_mark(0), series_mark(6)
    ((0, 0), (1, 0))
    """
    return (number + number // NUM_SERIES) % len(SHAPES), number % NUM_SERIES
