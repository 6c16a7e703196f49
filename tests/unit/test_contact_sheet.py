import numpy as np

from fusseg.prediction.contact_sheet import draw_sheet
from fusseg.prediction.naming import Typical
from fusseg.runs.regions import NamedCluster


def draw(name):
    typical = Typical(crops=((),), shares=np.ones(1, np.float32), skipped=())
    return draw_sheet(typical, [NamedCluster(0, name, (255, 0, 0))], "title")


def test_letters_beyond_ascii_are_drawn_each_as_itself():
    letters = ["o", "ö", "ü", "ß", "ł", "λ", "ж"]
    box = draw("\ue000")
    assert len({box, *map(draw, letters)}) == 1 + len(letters)


def test_a_name_too_wide_for_its_column_is_cut():
    assert draw("W" * 40) == draw("W" * 80) != draw("W" * 3)
