"""What holds for any clusters: their order, their sizes, and the labels of merged ones."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from fusseg.federation.region_merging import border_counts, merge_clusters, suggest_num_regions
from fusseg.segmentation.assignment import (
    assign,
    build_segmenter,
    cosines,
    pixel_cosines,
    segment,
    similarities,
)
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model, check_regions

SEEDS = st.integers(0, 2**31)


def draw_clusters(generator, num_clusters):
    centroids = torch.randn(num_clusters, 5, generator=generator)
    counts = torch.randint(0, 50, (num_clusters,), generator=generator)
    counts[torch.randperm(num_clusters, generator=generator)[:2]] = 9
    labels = torch.randint(0, num_clusters, (2, 6, 6), generator=generator)
    return centroids, counts, border_counts(labels, num_clusters)


def partition(region_of):
    """The clusters of every region, whatever the numbers of both."""
    return {frozenset((region_of == k).nonzero().flatten().tolist()) for k in region_of.tolist()}


@given(seed=SEEDS, num_clusters=st.integers(2, 12), num_regions=st.integers(2, 6))
def test_the_order_of_clusters_decides_only_the_numbers(seed, num_clusters, num_regions, seeded):
    generator = seeded(seed)
    centroids, counts, borders = draw_clusters(generator, num_clusters)
    order = torch.randperm(num_clusters, generator=generator)
    found = merge_clusters(centroids, counts, num_regions, borders)
    again = merge_clusters(centroids[order], counts[order], num_regions, borders[order][:, order])
    original = torch.empty_like(again)
    original[order] = again
    assert partition(original) == partition(found)
    check_regions(found, num_clusters)
    assert int(found.max()) + 1 == min(num_regions, int((counts > 0).sum()))
    filled = found[counts > 0].tolist()
    assert list(dict.fromkeys(filled)) == sorted(set(filled))


@given(seed=SEEDS, num_clusters=st.integers(2, 12))
def test_more_regions_split_those_that_there_are(seed, num_clusters, seeded):
    generator = seeded(seed)
    centroids, counts, borders = draw_clusters(generator, num_clusters)
    counts += 1
    coarse = merge_clusters(centroids, counts, 2, borders)
    for number in range(3, num_clusters + 1):
        fine = merge_clusters(centroids, counts, number, borders)
        pairs = set(zip(fine.tolist(), coarse.tolist(), strict=True))
        assert len(pairs) == number
        coarse = fine
    suggested = suggest_num_regions(centroids, counts)
    assert 2 <= suggested <= max(2, num_clusters - 1)


@given(
    seed=SEEDS,
    num_clusters=st.integers(2, 9),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_label_is_the_region_of_the_nearest_cluster(
    seed, num_clusters, height, width, size, seeded
):
    generator = seeded(seed)
    plain = Model(initial_head(3, 4, generator), torch.randn(num_clusters, 4, generator=generator))
    region_of = torch.randint(0, 3, (num_clusters,), generator=generator)
    region_of = torch.unique(region_of, return_inverse=True)[1]
    merged = build_segmenter(Model(plain.head, plain.centroids, region_of), torch.zeros(3))
    plain = build_segmenter(plain, torch.zeros(3))
    codes = torch.randn(height, width, 4, generator=generator)
    assert torch.equal(segment(merged, codes, size), region_of[segment(plain, codes, size).long()])
    of_regions, of_clusters = cosines(merged, codes), cosines(plain, codes)
    assert torch.equal(of_regions.argmax(dim=1), region_of[of_clusters.argmax(dim=1)])
    for region in range(merged.num_regions):
        expected = of_clusters[:, region_of == region].amax(dim=1)
        assert torch.equal(of_regions[:, region], expected)
        pixels = pixel_cosines(plain, codes, size)[region_of == region].amax(dim=0)
        assert torch.equal(pixel_cosines(merged, codes, size)[region], pixels)


@given(seed=SEEDS, size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_map_that_merges_nothing_changes_no_bit(seed, size, seeded):
    generator = seeded(seed)
    head, centroids = initial_head(3, 4, generator), torch.randn(5, 4, generator=generator)
    plain = build_segmenter(Model(head, centroids), torch.zeros(3))
    same = build_segmenter(Model(head, centroids, torch.arange(5)), torch.zeros(3))
    codes = torch.randn(4, 3, 4, generator=generator)
    assert torch.equal(segment(plain, codes, size), segment(same, codes, size))
    assert torch.equal(segment(plain, codes, size), assign(similarities(plain, codes), size))
    assert torch.equal(cosines(plain, codes), cosines(same, codes))
    assert torch.equal(pixel_cosines(plain, codes, size), pixel_cosines(same, codes, size))


@given(seed=SEEDS)
def test_of_equally_near_clusters_the_lowest_region_is_taken(seed, seeded):
    # Every cluster twice, in different regions: all similarities are equal in pairs.
    scores = torch.randn(3, 4, 5, generator=seeded(seed)).repeat(2, 1, 1)
    region_of = torch.tensor([3, 4, 5, 2, 1, 0])
    pixels = interpolate(scores[:3][None], (4, 5), mode="bilinear")[0].argmax(dim=0)
    found = assign(scores, (4, 5), region_of=region_of)
    assert torch.equal(found.long(), torch.tensor([2, 1, 0])[pixels])
