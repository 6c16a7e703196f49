import re

import pytest

from fusseg.core.errors import DataError
from fusseg.data.class_file import read_classes
from fusseg.data.items import NO_CLASS, Classes


def test_names_alone_are_enough(tmp_path):
    path = tmp_path / "classes.toml"
    path.write_text('names = ["background", "pipe"]')
    assert read_classes(path) == Classes(("background", "pipe"))


def test_everything_is_read(tmp_path):
    path = tmp_path / "classes.toml"
    text = 'names = ["a", "b"]\nignore_index = 2\ncolors = [[0, 0, 0], [255, 10, 20]]\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_classes(path) == Classes(("a", "b"), 2, ((0, 0, 0), (255, 10, 20)))


def test_pixel_values_can_be_any(tmp_path):
    path = tmp_path / "classes.toml"
    path.write_text('names = ["good", "defect"]\nvalues = [0, 255]')
    classes = read_classes(path)
    assert (classes.names, classes.ignore_index) == (("good", "defect"), None)
    assert classes.index_of == (0, *(NO_CLASS,) * 254, 1)
    path.write_text('names = ["wall", "sky"]\nvalues = [1, 3]\nignore_index = 0')
    classes = read_classes(path)
    assert classes.index_of == (255, 0, NO_CLASS, 1, *(NO_CLASS,) * 252)
    # Index 0 is a class, so that another one stands for what is ignored.
    assert classes.ignore_index == 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('names = ["a", "b"]\nvalues = [0]', "values must be one per name, 2 in all, got 1"),
        ('names = ["a"]\nvalues = 0', "values must be one per name, 1 in all, got 0"),
        ('names = ["a"]\nvalues = [256]', "a value must be an integer in [0, 255], got 256"),
        ('names = ["a", "b"]\nvalues = [7, 7]', "values must differ, got 7 twice"),
        (
            'names = ["a", "b"]\nvalues = [0, 255]\nignore_index = 255',
            "ignore_index 255 is the class 'b'; choose another value",
        ),
        ("", "names must be a list of at least one class name, got None"),
        ("names = []", "names must be a list of at least one class name, got []"),
        ('names = "a"', "names must be a list of at least one class name, got 'a'"),
        ('names = ["a", 1]', "names must be a list of at least one class name, got ['a', 1]"),
        ('names = [" "]', "names must be a list of at least one class name, got [' ']"),
        (f"names = {[str(i) for i in range(256)]}", "names must be at most 255, got 256"),
        ('names = ["a", "b", "a"]', "names must differ, got 'a' twice"),
        ('name = ["a"]', "unknown key 'name'; did you mean 'names'?"),
        (
            'names = ["a"]\nignore_index = 256',
            "ignore_index must be an integer in [0, 255], got 256",
        ),
        (
            'names = ["a"]\nignore_index = true',
            "ignore_index must be an integer in [0, 255], got True",
        ),
        (
            'names = ["a", "b"]\nignore_index = 1',
            "ignore_index 1 is the class 'b'; choose a value from 2 on",
        ),
        (
            'names = ["a", "b"]\ncolors = [[1, 2, 3]]',
            "colors must be one per name, 2 in all, got 1",
        ),
        ('names = ["a"]\ncolors = "red"', "colors must be one per name, 1 in all, got 'red'"),
        (
            'names = ["a"]\ncolors = [[1, 2]]',
            "a color must be three integers in [0, 255], got [1, 2]",
        ),
        (
            'names = ["a"]\ncolors = [[1, 2, 256]]',
            "a color must be three integers in [0, 255], got [1, 2, 256]",
        ),
        (
            "names = [",
            "classes are not valid TOML (Invalid value (at end of document))",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "classes.toml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_classes(path)
    assert str(caught.value) == f"{message}: {path}"


@pytest.mark.parametrize(
    "text",
    [
        f"ignore_index = {'9' * 5000}",
        f'names = ["a"]\nignore_index = 0x{"f" * 5000}',
        "names = " + "[" * 5000,
    ],
)
def test_numbers_too_long_and_lists_too_deep_are_no_valid_file(tmp_path, text):
    path = tmp_path / "classes.toml"
    path.write_text(text)
    pattern = (
        r"^classes are not valid TOML \((Exceeds the limit|maximum recursion depth|.* nested).*\): "
    )
    with pytest.raises(DataError, match=pattern + re.escape(str(path)) + "$"):
        read_classes(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError) as caught:
        read_classes(tmp_path)
    assert str(caught.value) == f"classes cannot be read (Is a directory): {tmp_path}"
