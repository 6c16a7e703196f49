"""Components and simplification against scipy and a slow loop."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from fusseg.export.annotations.outlines import trace_outlines
from fusseg.export.annotations.polygons import simplify


def slow_douglas_peucker(points, tolerance):
    """The algorithm as it is told: one line at a time, by distance from the segment."""
    if len(points) < 3:
        return points
    begin, end = points[0].astype(float), points[-1].astype(float)
    along = end - begin
    distances = []
    for point in points[1:-1]:
        share = 0.0 if not along.any() else np.dot(point - begin, along) / np.dot(along, along)
        distances.append(np.linalg.norm(point - begin - np.clip(share, 0, 1) * along))
    farthest = max(distances)
    if farthest <= tolerance:
        return points[[0, -1]]
    equal = [at for at, distance in enumerate(distances, 1) if distance > farthest - 1e-9]
    at = min(equal, key=lambda place: (points[place][1], points[place][0]))
    first, second = (
        slow_douglas_peucker(part, tolerance) for part in (points[: at + 1], points[at:])
    )
    return np.concatenate([first[:-1], second])


def make_map(seed):
    random = np.random.default_rng(seed)
    shape = (4, *random.integers(5, 50, 2))
    return gaussian_filter(random.normal(size=shape), (0, 1, 1)).argmax(axis=0).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_components_and_their_areas_are_those_of_scipy(seed):
    values = make_map(seed)
    outlines = trace_outlines(values)
    for value in np.unique(values):
        components, _ = label(values == value)
        expected = sorted(np.bincount(components.ravel())[1:])
        outer = np.flatnonzero((outlines.areas > 0) & (outlines.labels == value))
        assert sorted(outlines.areas[outlines.outer == ring].sum() for ring in outer) == expected


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tolerance", [0.0, 0.8, 1.7])
def test_lines_between_fixed_points_are_simplified_as_a_slow_loop_does(seed, tolerance):
    outlines = trace_outlines(make_map(seed))
    simplified = simplify(outlines, tolerance)
    compared = 0
    for ring in range(len(outlines.labels)):
        points, fixed = (
            values[outlines.starts[ring] : outlines.starts[ring + 1]]
            for values in (outlines.points, outlines.fixed)
        )
        found = simplified.points[simplified.starts[ring] : simplified.starts[ring + 1]]
        stops = np.flatnonzero(fixed)
        if len(stops) < 2 or len(found) == len(points):
            continue
        around = np.concatenate([points, points[: stops[0] + 1]])
        lines = [
            around[first : last + 1]
            for first, last in zip(stops, [*stops[1:], len(points) + stops[0]], strict=True)
        ]
        kept = np.concatenate([slow_douglas_peucker(line, tolerance)[:-1] for line in lines])
        # A line from a fixed point to itself of which nothing is left: the point stands once.
        kept = kept[(kept != np.roll(kept, 1, axis=0)).any(axis=1)]
        first = next(at for at in range(len(found)) if (np.roll(found, -at, 0) == kept).all())
        assert (np.roll(found, -first, axis=0) == kept).all()
        compared += 1
    assert compared > 0 or tolerance == 0
