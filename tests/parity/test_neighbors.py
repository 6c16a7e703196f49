"""Nearest neighbors against a loop over all pairs of images."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from fusseg.features.neighbors import CHUNK_BYTES, nearest_neighbors


def slow_neighbors(rows, image, num_neighbors):
    def cosine(other):
        product = sum(a * b for a, b in zip(rows[image], rows[other], strict=True))
        return product / math.hypot(*rows[image]) / math.hypot(*rows[other])

    others = [other for other in range(len(rows)) if other != image]
    return sorted(others, key=cosine, reverse=True)[:num_neighbors]


@pytest.mark.parametrize("seed", range(3))
def test_neighbors_equal_the_loop_over_all_pairs(seed, seeded):
    pooled = torch.randn(40, 6, generator=seeded(seed))
    found = nearest_neighbors(pooled, 3).tolist()
    assert found == [slow_neighbors(pooled.tolist(), image, 3) for image in range(40)]


def test_neighbors_in_a_second_chunk_equal_the_loop(seeded):
    num_images = 8400
    chunk = CHUNK_BYTES // (4 * num_images)
    assert chunk < num_images
    pooled = torch.randn(num_images, 3, generator=seeded(0))
    found = nearest_neighbors(pooled, 1)
    rows = pooled.tolist()
    for image in (0, chunk - 1, chunk, chunk + 1, num_images - 1):
        (expected,) = slow_neighbors(rows, image, 1)
        assert found[image] != image
        pair = pooled[torch.tensor([expected, int(found[image])])]
        gap = cosine_similarity(pooled[image][None], pair)
        assert expected == found[image] or float(gap[0] - gap[1]) < 1e-6


@pytest.mark.parametrize("num_images", [127, 128, 129, 300])
@pytest.mark.parametrize("num_neighbors", [1, 2, 10, 126])
def test_of_equally_near_images_the_first_are_taken(num_images, num_neighbors, seeded):
    # Seven directions along the axes, so that cosines are exact and most images have copies.
    pooled = torch.eye(7)[torch.randint(7, (num_images,), generator=seeded(num_images))]
    cosines = (pooled @ pooled.T).fill_diagonal_(-2)
    expected = cosines.sort(dim=1, descending=True, stable=True).indices[:, :num_neighbors]
    assert torch.equal(nearest_neighbors(pooled, num_neighbors), expected)
