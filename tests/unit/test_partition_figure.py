import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg.cli.partition import describe_partition
from fusseg.data.items import Classes, Item
from fusseg.report.class_distribution import draw_class_distribution

SHARES = np.array([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
COLORS = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]


def draw(kind, shares=SHARES, clients=("a", "b <$x$>", "c")):
    return draw_class_distribution(clients, ("water & ice", "land", "none"), COLORS, shares, kind)


def test_bars_are_as_long_as_the_shares():
    svg = draw("svg").decode()
    bars = re.findall(r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip[^>]*fill: (#\w+)"', svg)
    ends = {}
    for left, right, color in bars:
        ends.setdefault(color, []).append(tuple(sorted((float(left), float(right)))))
    reds, blues = ends["#ff0000"], ends["#0000ff"]
    left, full = reds[1]
    assert reds[0] == (left, pytest.approx(left + (full - left) / 4, abs=1e-3))
    assert blues[0] == (pytest.approx(reds[0][1], abs=1e-3), pytest.approx(full, abs=1e-3))
    assert "#00ff00" not in ends


def test_names_are_text_and_classes_without_pixels_are_left_out():
    svg = draw("svg").decode()
    assert "b &lt;$x$&gt;" in svg
    assert "water &amp; ice" in svg
    assert "none</text>" not in svg


def test_the_same_shares_give_the_same_file():
    assert draw("svg") == draw("svg")
    assert draw("png") == draw("png")
    assert Image.open(io.BytesIO(draw("png"))).size[0] == 880


def test_more_clients_make_a_higher_figure():
    many = draw("png", np.repeat(SHARES[:1], 18, axis=0), [f"client-{n:02d}" for n in range(18)])
    few = draw("png")
    heights = [Image.open(io.BytesIO(png)).size[1] for png in (few, many)]
    assert heights[1] > heights[0] + 300


def test_a_table_lists_images_and_dominant_classes():
    items = [
        Item("s", str(number), "", Path("x"), client=name)
        for number, name in enumerate(["b", "long name", "b", "b", "b"])
    ]
    counts = np.array([[5, 4], [1, 9], [0, 0], [3, 3], [1, 2]])
    assert list(describe_partition(items, Classes(("sky", "sea")), counts)) == [
        "client     images  dominant classes",
        "b               4  sky 50%, (no label) 25%, sea 25%",
        "long name       1  sea 100%",
    ]
    assert list(describe_partition(items, None, None)) == [
        "client     images",
        "b               4",
        "long name       1",
    ]
