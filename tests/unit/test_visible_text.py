import pytest

from fusseg.core.visible_text import brief, say, shown, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain über 가 {x}", "plain über 가 {x}"),
        ("a\u202eb", "a\\u202eb"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u2028\u200f\udce9", "\\u2028\\u200f\\udce9"),
    ],
)
def test_what_hides_or_reorders_text_is_escaped(text, expected):
    assert visible(text) == expected


def test_characters_to_keep_stay():
    assert visible("a\nb\tc\u202e", keep="\n") == "a\nb\\tc\\u202e"


def test_lines_stay_lines_and_errors_go_to_standard_error(capsys):
    say("one\ntwo\x07")
    say("wrong\u202e", error=True)
    captured = capsys.readouterr()
    assert captured.out == "one\ntwo\\x07\n"
    assert captured.err == "wrong\\u202e\n"


NASTY = [
    "a\nb",
    "\x1b[2J",
    "\r",
    "\x00",
    "\x85",
    "\u2028",
    "\u202egnp.exe",
    "\u200b",
    "\ud800",
    "\U000e0001",
]


@pytest.mark.parametrize("text", NASTY)
def test_what_cannot_be_seen_is_escaped(text):
    assert visible(text).isprintable()
    assert brief(text * 1000).isprintable()


@pytest.mark.parametrize("text", ["x", "\n", "\U000e0001"])
@pytest.mark.parametrize("length", [500, 501, 10**6])
def test_a_text_has_so_many_characters_at_most(text, length):
    found = brief(text * length)
    assert len(found) <= 500
    assert found.endswith("...") == (text != "x" or length > 500)


def test_a_text_of_the_bound_is_whole():
    assert brief("x" * 20, 20) == "x" * 20
    assert brief("x" * 21, 20) == "x" * 17 + "..."


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "3"),
        ("x" * 99, "'" + "x" * 49),
        (b"x" * 99, "b'" + "x" * 48),
        ([1] * 10**6, "[" + "1, " * 16 + "1"),
        (["x" * 10**6], "['" + "x" * 48),
        ([1, 10**5000], "a value of type list that is too large to show"),
        ("\n", r"'\n'"),
    ],
)
def test_a_value_is_written_in_few_characters(value, expected):
    assert shown(value) == expected


def test_a_number_that_python_does_not_write_is_not_written():
    assert shown(10**5000) == "a value of type int that is too large to show"


def test_a_value_that_is_nested_without_end_is_not_written():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a value of type list that is too large to show"
