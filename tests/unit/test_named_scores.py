"""Scores by given names."""

import pytest

from fusseg.evaluation.scores import score_named

COUNTS = [[6, 0], [2, 0], [0, 4], [0, 4]]
"""Pixels of four clusters in two classes."""


def test_several_clusters_may_be_one_class():
    found = score_named(COUNTS, ["sky", "sky", "road", "road"], ["sky", "road"])
    assert found == {
        "mean_iou": 1.0,
        "pixel_accuracy": 1.0,
        "per_class_iou": {"sky": 1.0, "road": 1.0},
    }


def test_a_name_that_is_no_class_is_wrong():
    found = score_named(COUNTS, ["sky", "cloud", "road", "sky"], ["sky", "road"])
    # sky: 6 right, 4 of road taken for it, 2 missed; road: 4 of 8
    assert found["per_class_iou"] == {"sky": pytest.approx(6 / 12), "road": pytest.approx(4 / 8)}
    assert found["pixel_accuracy"] == pytest.approx(10 / 16)


def test_classes_that_no_label_has_are_left_out():
    found = score_named([[5, 0]], ["sky"], ["sky", "road"])
    assert found["per_class_iou"] == {"sky": 1.0, "road": None}
    assert found["mean_iou"] == 1.0


def test_without_a_class_among_the_names_there_is_no_such_score():
    assert score_named(COUNTS, ["a", "b", "c", "cluster 3"], ["sky", "road"]) is None
