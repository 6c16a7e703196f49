import re
from pathlib import Path

import pytest
from benchmarks.speed.explanations import EXPLANATIONS, Explanation
from benchmarks.speed.rows import Figures, Limit, missing_row, speed_row, untargeted_row

RATIO, FASTER = Limit("ratio", 1.3), Limit("ratio", 1.5, at_least=True)
WHY = {("a step", "cpu"): Explanation("sums are not products", up_to=1.6)}


def judged(seconds, conditions=("cpu", "full"), limit=RATIO, note="", floor=1.0):
    return speed_row("a step", "one", Figures(seconds, floor), limit, note, conditions, WHY)


@pytest.mark.parametrize(
    ("seconds", "status"), [(1.0, "met"), (1.3, "met"), (1.31, "explained"), (1.61, "short")]
)
def test_a_row_is_met_explained_up_to_a_bound_or_short(seconds, status):
    assert judged(seconds).status == status


def test_an_explanation_holds_under_its_condition_only():
    assert judged(1.4, conditions=("cuda", "full")).status == "short"


def test_an_explained_row_carries_its_reason_before_its_note_and_a_met_one_does_not():
    assert judged(1.4, note="per image").note == "sums are not products; per image"
    assert judged(1.4).note == "sums are not products"
    assert judged(1.0, note="per image").note == "per image"


def test_where_more_is_better_the_limit_is_a_lower_bound():
    assert judged(1.5, limit=FASTER).status == "met"
    assert judged(1.49, conditions=(), limit=FASTER).status == "short"


def test_the_ratio_is_that_of_seconds_and_floor_unless_it_is_given():
    assert judged(3.0, floor=2.0).ratio == 1.5
    given = speed_row("a step", "one", Figures(3.0, ratio=7.0), FASTER)
    assert (given.ratio, given.floor_seconds) == (7.0, None)


def test_a_limit_on_what_was_not_measured_is_refused():
    with pytest.raises(ValueError, match="row 'a step' has a limit on peak_bytes, which was not"):
        speed_row("a step", "one", Figures(1.0), Limit("peak_bytes", 5))


def test_a_row_that_cannot_be_measured_has_its_target_and_no_figure():
    row = missing_row("a step", "one", RATIO, "needs CUDA")
    assert (row.status, row.note, row.target) == (
        "not measurable here",
        "needs CUDA",
        "ratio at most 1.3",
    )
    assert row.seconds is row.floor_seconds is row.ratio is row.peak_bytes is None


def test_a_row_without_target_says_so():
    row = untargeted_row("a step", "one", Figures(2.0, 1.0), "for comparison")
    assert (row.target, row.status, row.ratio) == ("none", "explained", 2.0)


def test_limits_say_what_they_ask_for():
    assert str(FASTER) == "ratio at least 1.5"
    assert str(Limit("seconds", 0.02, says="at least 50 images/s")) == "at least 50 images/s"


def test_every_explanation_has_its_paragraph_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs/speed.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\*\*(.+?)\.\*\*", text, flags=re.MULTILINE))
    assert {name for name, _ in EXPLANATIONS} <= explained
