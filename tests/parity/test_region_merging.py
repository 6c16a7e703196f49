"""Merging against scipy, and against loops over all pairs of positions."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch.nn.functional import normalize

from fusseg.federation.region_merging import border_counts, merge_clusters


def same_partition(left, right):
    pairs = set(zip(left.tolist(), right.tolist(), strict=True))
    return len(pairs) == len(set(left.tolist())) == len(set(right.tolist()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_regions", [2, 5, 11])
def test_equal_counts_without_borders_give_the_average_linkage_of_scipy(seed, num_regions, seeded):
    units = normalize(torch.randn(20, 6, generator=seeded(seed), dtype=torch.float64), dim=1)
    distances = (1 - units @ units.T).numpy()
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average")
    expected = fcluster(tree, num_regions, "maxclust")
    found = merge_clusters(units, torch.full((20,), 7), num_regions)
    assert same_partition(found, torch.from_numpy(expected))


def slow_merging(codes, owner, num_regions, borders=None, weight=0.0):
    """Merge groups of positions, with every mean over every pair of positions taken anew."""
    groups = [[cluster] for cluster in sorted(set(owner))]
    while len(groups) > num_regions:
        best, pair = -float("inf"), None
        for left, right in combinations(range(len(groups)), 2):
            inside = [k for k, one in enumerate(owner) if one in groups[left]]
            other = [k for k, one in enumerate(owner) if one in groups[right]]
            pairs = [float(codes[a] @ codes[b]) for a, b in product(inside, other)]
            likeness = sum(pairs) / len(pairs)
            if borders is not None:
                shared, either = 0, 0
                for a, b in combinations(range(len(borders)), 2):
                    places = [group_of(groups, a), group_of(groups, b)]
                    if places[0] == places[1]:
                        continue
                    either += int(borders[a, b]) * (left in places or right in places)
                    shared += int(borders[a, b]) * (sorted(places) == [left, right])
                likeness += weight * shared / max(1, either)
            if likeness > best:
                best, pair = likeness, (left, right)
        left, right = pair
        groups[left] = sorted(groups[left] + groups[right])
        del groups[right]
    return torch.tensor([group_of(groups, cluster) for cluster in range(max(owner) + 1)])


def group_of(groups, cluster):
    return next(place for place, group in enumerate(groups) if cluster in group)


def draw(generator, num_clusters=7):
    """Codes of clusters of different sizes, and the cluster of each."""
    sizes = torch.randint(1, 6, (num_clusters,), generator=generator)
    centers = torch.randn(num_clusters, 4, generator=generator, dtype=torch.float64)
    owner = torch.arange(num_clusters).repeat_interleave(sizes)
    noise = torch.randn(len(owner), 4, generator=generator, dtype=torch.float64)
    return normalize(centers[owner] + 0.5 * noise, dim=1), owner, sizes


def sum_by(owner, codes, num_clusters):
    return torch.zeros(num_clusters, codes.shape[1], dtype=codes.dtype).index_add_(0, owner, codes)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_regions", [2, 4])
def test_sums_give_the_mean_cosine_of_all_pairs_of_positions(seed, num_regions, seeded):
    codes, owner, sizes = draw(seeded(seed))
    sums = sum_by(owner, codes, 7)
    found = merge_clusters(normalize(sums, dim=1), sizes, num_regions, sums=sums)
    assert torch.equal(found, slow_merging(codes, owner.tolist(), num_regions))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_regions", [2, 4])
def test_counts_weigh_centroids_like_as_many_copies(seed, num_regions, seeded):
    codes, owner, sizes = draw(seeded(seed))
    centroids = normalize(sum_by(owner, codes, 7), dim=1)
    found = merge_clusters(centroids, sizes, num_regions)
    assert torch.equal(found, slow_merging(centroids[owner], owner.tolist(), num_regions))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_borders_of_groups_are_those_of_their_clusters(seed, weight, seeded):
    generator = seeded(seed)
    codes, owner, sizes = draw(generator)
    borders = torch.randint(0, 9, (7, 7), generator=generator).triu(1)
    borders = borders + borders.T
    sums = sum_by(owner, codes, 7)
    found = merge_clusters(
        normalize(sums, dim=1), sizes, 3, borders, border_weight=weight, sums=sums
    )
    assert torch.equal(found, slow_merging(codes, owner.tolist(), 3, borders, weight))


@pytest.mark.parametrize("shape", [(2, 5, 4), (1, 1, 6), (3, 1, 1), (1, 7, 1)])
def test_border_counts_equal_a_loop_over_neighbors(shape, seeded):
    labels = torch.randint(0, 5, shape, generator=seeded(sum(shape)))
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for image in labels.tolist():
        for row, line in enumerate(image):
            for column, own in enumerate(line):
                for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    y, x = row + down, column + right
                    if 0 <= y < len(image) and 0 <= x < len(line) and image[y][x] != own:
                        expected[own, image[y][x]] += 1
    assert torch.equal(border_counts(labels, 5), expected)
