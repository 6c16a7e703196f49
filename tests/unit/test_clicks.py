"""The table of clicks, and the map of classes."""

import numpy as np
import pytest
from PIL import Image

from fusseg.core.errors import DataError
from fusseg.data.class_map import read_class_map
from fusseg.data.clicks import classes_of_clicks, pixels_of_clicks, read_clicks
from fusseg.data.items import Item


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "clicks.csv"
        path.write_text(text)
        return path

    return write


def test_clicks_are_read_by_image_and_placed_by_column_and_row(table, tmp_path):
    path = table("stem,x,y,class\na,3,1,sky\nb,0,0,road\na,0,2,road\n")
    clicks = read_clicks(path)
    classes = classes_of_clicks(clicks)
    assert classes == ("road", "sky")
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    item = Item("", "a", "", tmp_path / "a.png")
    found = pixels_of_clicks(clicks["a"], item, classes, path)
    assert found.shape == (3, 4)
    assert np.array_equal(found.rows, [1, 2])
    assert np.array_equal(found.columns, [3, 0])
    assert np.array_equal(found.classes, [1, 0])


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("stem,x,y\na,1,2\n", "no column 'class'"),
        ("stem,x,y,class\n", "has no click"),
        ("stem,x,y,class\na,1,-2,sky\n", "line 2 of the table of clicks has y '-2'"),
        ("stem,x,y,class\na,1.5,2,sky\n", "has x '1.5'; write the pixel as a whole number"),
        ("stem,x,y,class\na,1,2,\n", "line 2 of the table of clicks has no class"),
        ("stem,x,y,class\n,1,2,sky\n", "line 2 of the table of clicks has no stem"),
    ],
)
def test_a_wrong_table_is_refused(text, fragment, table):
    with pytest.raises(DataError) as error:
        read_clicks(table(text))
    assert fragment in str(error.value)


def test_a_click_outside_of_the_image_is_refused(table, tmp_path):
    path = table("stem,x,y,class\na,4,0,sky\n")
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    item = Item("", "a", "", tmp_path / "a.png")
    with pytest.raises(DataError, match="clicks at x 4, y 0, but image 'a' has 4 x 3 pixels"):
        pixels_of_clicks(read_clicks(path)["a"], item, ("sky",), path)


def test_a_map_of_classes_gives_names_by_names(tmp_path):
    path = tmp_path / "classes.map.toml"
    path.write_text('[classes]\nRoad = "road"\n"Himmel" = "sky"\n')
    assert read_class_map(path) == {"Road": "road", "Himmel": "sky"}


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "no [classes]"),
        ("[class]\na = 'b'\n", "has class; write [classes]"),
        ("[classes]\na = 3\n", "class 'a' is mapped to 3, not to a name"),
        ("[classes]\na = 'b'\nb = 'c'\n", "'a' is mapped to 'b', which is mapped to 'c'"),
        ("[classes\n", "not valid TOML"),
    ],
)
def test_a_wrong_map_is_refused(text, fragment, tmp_path):
    path = tmp_path / "classes.map.toml"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_class_map(path)
    assert fragment in str(error.value)


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_class_map(tmp_path / "none.toml")
