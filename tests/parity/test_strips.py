"""Strips and windows against the whole image at once."""

import numpy as np
import pytest
import torch

from fusseg.prediction import refinement, strips
from fusseg.prediction.refinement import guided_coefficients, refine_guided
from fusseg.prediction.strips import assign_strips, needed_rows, position_margins, windows
from fusseg.report.cluster_colors import numbered_regions
from fusseg.runs.regions import NamedCluster, join_clusters
from fusseg.segmentation.assignment import assign, build_segmenter, cosines, similarities
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model


@pytest.fixture
def model(seeded):
    head = initial_head(3, 4, seeded(0))
    return build_segmenter(Model(head, torch.randn(5, 4, generator=seeded(1))), torch.zeros(3))


@pytest.mark.parametrize("size", [(70, 50), (11, 9), (7, 5), (301, 40)])
@pytest.mark.parametrize("cuts", [[11], [1] * 11, [4, 5, 2]])
def test_strips_of_bands_give_the_regions_of_the_whole(model, seeded, monkeypatch, size, cuts):
    codes = torch.randn(11, 9, 4, generator=seeded(2))
    whole = assign(similarities(model, codes), size).numpy()
    bands = iter(codes.split(cuts))
    # Room for one row of the map: many strips.
    monkeypatch.setattr(strips, "STRIP_BYTES", 4 * 5 * size[1] * 4)
    found = assign_strips(bands, (11, 9), size, model, numbered_regions(5))
    assert (found.regions == whole).all()
    assert found.pixels[:5].tolist() == np.bincount(whole.ravel(), minlength=5).tolist()


def test_confidence_is_the_mean_margin_at_the_position_of_each_pixel(model, seeded):
    codes = torch.randn(3, 4, 4, generator=seeded(3))
    found = assign_strips(iter([codes]), (3, 4), (31, 22), model, numbered_regions(5))
    sums = np.zeros(5)
    for row in range(31):
        for column in range(22):
            own = cosines(model, codes[row * 3 // 31, column * 4 // 22][None, None])[0]
            best, second = own.sort(descending=True).values[:2].tolist()
            sums[found.regions[row, column]] += best - second
    assert found.margins[:5] == pytest.approx(sums, abs=1e-4)


def test_the_margin_of_merged_clusters_is_that_to_the_next_region(model, seeded):
    codes = torch.randn(2, 3, 4, generator=seeded(4))
    names = ("a", "b", "a", "b", "c")
    regions = join_clusters([NamedCluster(k, name, (0, 0, k)) for k, name in enumerate(names)])
    margin = position_margins(model, codes, regions).ravel()
    for place, own in enumerate(cosines(model, codes).tolist()):
        best = sorted((max(own[0], own[2]), max(own[1], own[3]), own[4]))
        assert margin[place] == pytest.approx(best[2] - best[1], abs=1e-6)


def test_merged_clusters_share_the_lowest_index(model, seeded):
    codes = torch.randn(6, 6, 4, generator=seeded(5))
    regions = join_clusters([NamedCluster(k, "ab"[k % 2], (0, 0, k)) for k in range(5)])
    whole = assign(similarities(model, codes), (40, 30)).numpy()
    found = assign_strips(iter([codes]), (6, 6), (40, 30), model, regions)
    assert (found.regions == whole % 2).all()


def test_windows_cut_bands_anew():
    bands = torch.arange(7).float()[:, None, None].split([2, 1, 4])
    spans = [range(2), range(1, 5), range(4, 7)]
    cut = [window.flatten().tolist() for window in windows(iter(bands), spans)]
    assert cut == [[0, 1], [1, 2, 3, 4], [4, 5, 6]]


def test_rows_between_two_windows_are_passed_over():
    bands = torch.arange(8).float()[:, None, None].split([2, 2, 2, 2])
    cut = [window.flatten().tolist() for window in windows(iter(bands), [range(2), range(5, 7)])]
    assert cut == [[0, 1], [5, 6]]


def test_pixels_between_two_rows_of_the_map_need_both():
    assert needed_rows(range(40), 5, 40) == range(5)
    # Pixel row 3 lies above the center of the first map row, row 4 below it.
    assert needed_rows(range(4), 5, 40) == range(2)
    assert needed_rows(range(12, 20), 5, 40) == range(1, 3)
    assert needed_rows(range(36, 40), 5, 40) == range(4, 5)


@pytest.mark.parametrize("size", [(48, 64), (100, 150), (40, 50)])
def test_guided_blocks_give_what_one_block_gives(model, seeded, monkeypatch, size):
    codes = torch.randn(6, 8, 4, generator=seeded(6))
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
    seen = generator.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    found = []
    for side in (512, 16):
        monkeypatch.setattr(refinement, "MAX_BLOCK", side)
        monkeypatch.setattr(refinement, "MIN_BLOCK", side)
        bands = iter(codes.split(2))
        found.append(refine_guided(image, seen, bands, (6, 8), model, numbered_regions(5)))
    # Sums over windows are rounded otherwise: pixels between two regions may change.
    assert (found[0].regions == found[1].regions).mean() > 0.999
    assert found[1].pixels.sum() == size[0] * size[1]
    assert found[1].margins == pytest.approx(found[0].margins, rel=1e-2, abs=1e-2)


def test_where_the_guide_is_flat_the_filter_averages_and_where_it_is_not_it_follows():
    values = torch.zeros(1, 60, 60)
    values[:, :, 34:] = 1  # the edge of the values lies 4 pixels beside that of the guide
    guide = torch.zeros(60, 60)
    guide[:, 30:] = 1
    slope, offset = guided_coefficients(guide, values)
    followed = (slope * guide + offset)[0, 30]
    jumps = followed.diff().abs()
    assert int(jumps.argmax()) == 29
    slope, offset = guided_coefficients(torch.zeros(60, 60), values)
    averaged = (slope * 0 + offset)[0, 30]
    assert averaged.diff().max() < jumps.max() / 2
    assert averaged[33] == pytest.approx(1 - float(averaged[34]), abs=1e-5)
