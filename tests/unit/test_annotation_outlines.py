"""Outlines of small maps, traced, simplified and joined by hand."""

import numpy as np
import pytest

from fusseg.core.errors import DataError
from fusseg.export.annotations.outlines import Box, bounding_box, list_parts, trace_outlines
from fusseg.export.annotations.polygons import outline_part, polygon_area, simplify
from fusseg.export.annotations.rle import row_runs


def regions(*rows):
    return np.array([[int(value) for value in row] for row in rows], np.uint8)


def rings(outlines):
    """Label and points of each ring."""
    return [
        (int(label), outlines.points[start:stop].tolist())
        for label, start, stop in zip(
            outlines.labels, outlines.starts, outlines.starts[1:], strict=False
        )
    ]


def turned_to_begin(points, first):
    at = points.index(first)
    return points[at:] + points[:at]


def test_one_region_is_the_frame_of_the_image():
    ((label, points),) = rings(trace_outlines(regions("000", "000")))
    assert label == 0
    assert turned_to_begin(points, [0, 0]) == [[0, 0], [3, 0], [3, 2], [0, 2]]


def test_a_hole_runs_against_the_clock_and_its_island_with_it():
    outlines = trace_outlines(regions("0000", "0110", "0000"))
    frame, hole, island = sorted(rings(outlines), key=lambda ring: (ring[0], ring[1][0]))
    assert turned_to_begin(hole[1], [1, 1]) == [[1, 1], [1, 2], [3, 2], [3, 1]]
    assert turned_to_begin(island[1], [1, 1]) == [[1, 1], [3, 1], [3, 2], [1, 2]]
    assert (frame[0], hole[0], island[0]) == (0, 0, 1)
    assert sorted(outlines.areas) == [-2, 2, 12]
    inner = int(np.flatnonzero(outlines.areas < 0)[0])
    outer = int(np.flatnonzero(outlines.areas == 12)[0])
    assert outlines.left[inner] == outlines.outer[inner] == outer


def test_a_hole_right_of_a_hole_hangs_on_it_and_both_on_the_frame():
    outlines = trace_outlines(regions("00000", "01020", "00000"))
    holes = np.flatnonzero(outlines.areas < 0)
    first, second = holes[np.argsort(outlines.leftmost[holes])]
    assert outlines.left[second] == first
    assert outlines.areas[outlines.left[first]] == 15
    assert outlines.outer[second] == outlines.outer[first] == outlines.left[first]


def test_pixels_that_touch_across_are_two_components_and_share_a_fixed_point():
    outlines = trace_outlines(regions("01", "10"))
    assert outlines.areas.tolist() == [1, 1, 1, 1]
    assert outlines.fixed[(outlines.points == 1).all(axis=1)].tolist() == [True] * 4


def test_where_three_regions_meet_points_are_fixed():
    outlines = trace_outlines(regions("0011", "2222"))
    met = {tuple(point) for point in outlines.points[outlines.fixed].tolist()}
    assert met == {(0, 0), (2, 0), (4, 0), (0, 1), (2, 1), (4, 1), (0, 2), (4, 2)}


def test_too_ragged_an_image_is_refused(monkeypatch):
    monkeypatch.setattr("fusseg.export.annotations.outlines.MAX_SIDES", 15)
    assert trace_outlines(regions("0011")).areas.tolist() == [2, 2]
    # four pixels of four sides each
    with pytest.raises(
        DataError, match="are more than 15 sides of pixels long; annotate a smaller"
    ):
        trace_outlines(regions("01", "10"))


def test_steps_become_a_line_on_both_of_its_sides():
    # Region 1 lies on and above the diagonal; the frame and the border meet in (0, 1) and (19, 20).
    stairs = np.triu(np.ones((20, 20), np.uint8))
    lower, upper = (points for _, points in sorted(rings(simplify(trace_outlines(stairs), 1.0))))
    assert turned_to_begin(lower, [0, 1]) == [[0, 1], [19, 20], [0, 20]]
    assert turned_to_begin(upper, [0, 0]) == [[0, 0], [20, 0], [20, 20], [19, 20], [0, 1]]


def test_a_bump_stays_where_it_is_higher_than_the_tolerance():
    values = regions("00000", "00100", "11111")
    low = simplify(trace_outlines(values), 1.0)
    high = simplify(trace_outlines(values), 0.99)
    (flat,) = (points for label, points in rings(low) if label == 1)
    (bumpy,) = (points for label, points in rings(high) if label == 1)
    assert turned_to_begin(flat, [0, 2]) == [[0, 2], [5, 2], [5, 3], [0, 3]]
    assert turned_to_begin(bumpy, [0, 2])[1] == [2, 1]


def test_a_ring_of_which_nothing_would_remain_stays():
    outlines = trace_outlines(regions("000", "010", "000"))
    simplified = simplify(outlines, 5.0)
    assert [points for label, points in rings(simplified) if label == 1] == [
        points for label, points in rings(outlines) if label == 1
    ]


def test_where_a_corner_is_gone_its_point_stands_once():
    values = np.zeros((10, 10), np.uint8)
    values[2:7, 2:7] = values[7, 7] = 1
    hole = max(rings(trace_outlines(values)), key=lambda ring: ring[1].count([7, 7]))
    assert (hole[0], hole[1].count([7, 7])) == (0, 2)
    low = [points for label, points in rings(simplify(trace_outlines(values), 2.0)) if label == 0]
    assert sorted(low[1]) == [[2, 2], [2, 7], [7, 2], [7, 7]]


def test_holes_are_joined_by_slits_and_the_area_is_without_them():
    outlines = trace_outlines(regions("00000", "01020", "00000"))
    (part,) = (part for part in list_parts(outlines, 1) if part.region == 0)
    polygon = outline_part(outlines, part)
    assert part.area == polygon_area(polygon) == 13
    # four corners, four and the first again of each hole, and back to the point each hangs on
    assert len(polygon) == 4 + 2 * (5 + 1)


def test_small_parts_are_left_out_and_small_holes_filled():
    outlines = trace_outlines(regions("00000", "01022", "00022"))
    parts = list(list_parts(outlines, 2))
    assert [(part.region, part.area) for part in parts] == [(0, 11), (2, 4)]
    box = bounding_box(outlines, (parts[1],))
    assert box == Box(left=3, top=1, width=2, height=2)
    assert row_runs(outlines, (parts[1],), box).tolist() == [0, 4]
