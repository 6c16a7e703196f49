"""Masks and polygons against pycocotools, whatever the regions."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.ndimage import distance_transform_edt, gaussian_filter

from fusseg.export.annotations.annotated_image import (
    AnnotationOptions,
    Label,
    LabeledImage,
    annotate_image,
)
from fusseg.export.annotations.coco import write_coco
from fusseg.export.annotations.outlines import list_parts, trace_outlines, whole_image
from fusseg.export.annotations.polygons import outline_part, polygon_area, simplify
from fusseg.export.annotations.rle import column_runs, compress_counts, fill_runs, row_runs

noise = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)
)


@st.composite
def blobs(draw):
    """Smooth regions, as a segmentation has them."""
    height, width, num = draw(st.integers(2, 40)), draw(st.integers(2, 40)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**20)))
    scores = gaussian_filter(random.normal(size=(num, height, width)), (0, 1.5, 1.5))
    return scores.argmax(axis=0).astype(np.uint8)


maps = noise | blobs()

# pycocotools builds arrays from objects that know only the old protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def fill(polygon, shape):
    code = coco_mask.frPyObjects([polygon.ravel().astype(float).tolist()], *map(int, shape))
    return coco_mask.decode(code)[..., 0].astype(bool)


@given(maps)
def test_codes_are_those_of_pycocotools(values):
    outlines = trace_outlines(values)
    parts = list(list_parts(outlines, 1))
    for value in np.unique(values):
        mask = values == value
        chosen = tuple(part for part in parts if part.region == value)
        counts = column_runs(outlines, chosen, whole_image(outlines))
        code = compress_counts(counts)
        assert code.encode() == coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
        drawn = fill_runs(row_runs(outlines, chosen, whole_image(outlines)))
        assert (drawn.reshape(mask.shape) == mask).all()


@given(maps, st.sampled_from([0.0, 0.5, 1.0, 2.5]))
def test_polygons_leave_the_region_by_the_tolerance_at_most(values, tolerance):
    outlines = trace_outlines(values)
    simplified = simplify(outlines, tolerance)
    for part in list_parts(outlines, 1):
        exact = fill(outline_part(outlines, part), values.shape)
        drawn = fill(outline_part(simplified, part), values.shape)
        # Distance of a pixel's center to the nearest center on the other side: the border is
        # between them, half a pixel from either where it is nearest. Beyond the frame is off.
        outside = distance_transform_edt(~exact)
        inside = distance_transform_edt(np.pad(exact, 1))[1:-1, 1:-1]
        wrong = exact != drawn
        # pycocotools rounds to fifths of a pixel
        assert (np.maximum(outside, inside)[wrong] <= tolerance + 0.5 + 0.2).all()
        if tolerance == 0:
            assert not wrong.any()
            assert polygon_area(outline_part(outlines, part)) == exact.sum()


def unit_steps(begin, end):
    """Cut a line along pixel sides into single sides: neighbors may end theirs along the way."""
    (x, y), (next_x, next_y) = begin, end
    if x != next_x and y != next_y:
        return [(begin, end)]
    length = abs(next_x - x) + abs(next_y - y)
    step = ((next_x - x) // length, (next_y - y) // length)
    points = [(x + place * step[0], y + place * step[1]) for place in range(int(length) + 1)]
    return list(itertools.pairwise(points))


@given(blobs(), st.sampled_from([0.0, 1.0, 2.0]))
def test_neighbors_share_every_line_of_their_simplified_border(values, tolerance):
    height, width = values.shape
    outlines = trace_outlines(values)
    simplified = simplify(outlines, tolerance)
    unchanged = np.diff(simplified.starts) == np.diff(outlines.starts)
    lines = {}
    for same, start, stop in zip(unchanged, simplified.starts, simplified.starts[1:], strict=False):
        ring = [tuple(point) for point in simplified.points[start:stop].tolist()]
        for line in zip(ring, ring[1:] + ring[:1], strict=True):
            lines |= dict.fromkeys(unit_steps(*line), same)
    for begin, end in lines:
        (x, y), (next_x, next_y) = begin, end
        on_frame = (x == next_x and x in (0, width)) or (y == next_y and y in (0, height))
        # A ring of which nothing would remain stays as it was, over the border of its neighbors.
        kept = tolerance > 0 and lines[begin, end]
        assert (end, begin) in lines or on_frame or kept


@given(maps, st.integers(1, 12))
def test_what_is_filled_and_what_is_kept_do_not_overlap(values, min_area):
    outlines = trace_outlines(values)
    drawn = np.zeros(values.shape, int)
    for part in list_parts(outlines, min_area):
        assert part.area >= min_area
        mask = fill(outline_part(outlines, part), values.shape)
        assert mask.sum() == part.area
        drawn += mask
    assert drawn.max(initial=0) <= 1


@pytest.mark.parametrize("instances", ["components", "region"])
@pytest.mark.parametrize("shapes", ["rle", "polygons"])
def test_pycocotools_loads_the_file_and_finds_the_regions(tmp_path, shapes, instances):
    labels = [Label(name, (index, 0, 0)) for index, name in enumerate("abc")]
    random = np.random.default_rng(0)
    images = [
        LabeledImage(name, random.integers(0, 3, shape).astype(np.uint8))
        for name, shape in (("x.jpg", (13, 9)), ("y/z.png", (6, 21)))
    ]
    options = AnnotationOptions(shapes, instances, tolerance=0.0, min_area=0)
    annotated = (annotate_image(image, options) for image in images)
    assert len(list(write_coco(tmp_path / "coco.json", labels, annotated, options))) == 2
    coco = COCO(tmp_path / "coco.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list("abc")
    for number, image in enumerate(images, 1):
        (entry,) = coco.loadImgs([number])
        height, width = image.regions.shape
        assert (entry["file_name"], entry["height"], entry["width"]) == (image.name, height, width)
        found = np.full(image.regions.shape, 255, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"]
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["bbox"] == box
            assert (found[mask] == 255).all()
            found[mask] = annotation["category_id"] - 1
        assert (found == image.regions).all()
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 2
