"""The contact sheet: typical crops of every cluster, with its color and name."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from fusseg.prediction.naming import CROPS, Crop, Typical
from fusseg.runs.regions import NamedCluster

Font = ImageFont.FreeTypeFont

_SIDE, _GAP, _MARGIN, _LEGEND = 128, 8, 16, 220
_FADE = 0.3
"""Opacity over white of pixels outside of the cluster."""
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def draw_sheet(typical: Typical, named: Sequence[NamedCluster], title: str) -> bytes:
    """Draw a row per cluster: color, number, name and share, and its most typical crops.

    Args:
        typical: Crops and shares of the clusters.
        named: Every cluster once, in order.
        title: Title of the sheet.

    Returns:
        Content of a PNG file.
    """
    row = _SIDE + _GAP
    width = 2 * _MARGIN + _LEGEND + CROPS * row
    sheet = Image.new("RGB", (width, 3 * _MARGIN + 16 + len(named) * row), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=_load_font(16))
    for number, (entry, crops) in enumerate(zip(named, typical.crops, strict=True)):
        top = 2 * _MARGIN + 16 + number * row
        _draw_legend(pen, entry, float(typical.shares[number]), top)
        for place, crop in enumerate(crops):
            corner = (_MARGIN + _LEGEND + place * row, top)
            sheet.paste(Image.fromarray(draw_crop(crop)).resize((_SIDE, _SIDE)), corner)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def draw_crop(crop: Crop) -> UInt8[np.ndarray, "height width 3"]:
    """Show the cluster's pixels unchanged and the others faded."""
    faded = np.rint(255 * (1 - _FADE) + _FADE * crop.pixels.astype(np.float64)).astype(np.uint8)
    return np.where(crop.inside[:, :, None], crop.pixels, faded)


def _draw_legend(pen: ImageDraw.ImageDraw, entry: NamedCluster, share: float, top: int) -> None:
    pen.rectangle((_MARGIN, top, _MARGIN + 40, top + _SIDE), fill=entry.color)
    lines = (f"cluster {entry.cluster}", entry.name, f"{share:.1%} of the positions")
    for number, line in enumerate(lines):
        font = _load_font(18 if number < 2 else 11)
        text = _shorten(line, font, _LEGEND - 50 - _GAP)
        pen.text((_MARGIN + 50, top + 8 + 30 * number), text, fill=_INK, font=font)


def _load_font(size: int) -> Font:
    """Load matplotlib's font, since Pillow's own has no letters beyond ASCII."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _shorten(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
