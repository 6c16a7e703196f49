import itertools

import pytest

from fusseg.report.numbers import (
    Spread,
    cluster_names,
    confusion_rows,
    model_spread,
    site_spread,
    spread,
    total_bytes,
)
from fusseg.report.svg import MARKERS, SHAPES, series_mark


def test_a_spread_has_a_sample_deviation_and_passes_over_missing_values():
    found = spread([0.25, None, 0.75])
    assert found == Spread(0.5, found.std, 0.25, 0.75, 2)
    assert found.std == pytest.approx(0.5 / 2**0.5)
    assert spread([0.5]) == Spread(0.5, None, 0.5, 0.5, 1)
    assert spread([None]) is None


def test_an_unfinished_run_has_no_spread():
    assert site_spread({"final": None}, "mean_iou") is None
    assert model_spread({"final": None}, "mean_iou") is None


def test_bytes_before_the_first_round_are_counted():
    record = {"hello": {"bytes_up": 5}, "rounds": [{"bytes_up": 7}, {"bytes_up": 11}]}
    assert total_bytes(record, "bytes_up") == 23
    assert total_bytes({**record, "hello": None}, "bytes_up") == 18


def test_the_confusion_is_normalized_by_row_and_sorted_by_class():
    rows = confusion_rows([[1, 3], [2, 0], [0, 0]], [1, 0, -1], ["sky", "pole"], ["a", "b", "c"])
    assert [row.name for row in rows] == ["b", "a", "c"]
    assert [[cell.share for cell in row.cells] for row in rows] == [[1, 0], [0.25, 0.75], [0, 0]]
    assert [[cell.matched for cell in row.cells] for row in rows] == [
        [True, False],
        [False, True],
        [False, False],
    ]
    assert [row.pixels for row in rows] == [2, 4, 0]


def test_clusters_are_called_by_number_given_name_and_class():
    matching, classes = [1, 0, -1], ["sky", "pole"]
    assert cluster_names(2, None) == ["cluster 0", "cluster 1"]
    assert cluster_names(3, None, matching, classes) == ["0 → pole", "1 → sky", "2 (unmatched)"]
    given = ["mast", "sky", "cluster 2"]
    assert cluster_names(3, given) == ["0 mast", "1 sky", "cluster 2"]
    assert cluster_names(3, given, matching, classes) == ["0 mast → pole", "1 sky", "2 (unmatched)"]


def test_the_first_36_marks_all_differ():
    assert len(SHAPES) == len(MARKERS) == 6
    marks = [series_mark(number) for number in range(36)]
    assert marks[:3] == [(0, 0), (1, 1), (2, 2)]
    assert all(left != right for left, right in itertools.combinations(marks, 2))
