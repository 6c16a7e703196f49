"""Equations 5 and 6 and the quantile rule of the shifts against loops over positions."""

import math

import pytest
import torch

from fusseg.config import LocalConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.losses import (
    center_correspondence,
    clustering_loss,
    correspondence_loss,
)
from fusseg.segmentation.objective import Objective, head_objective
from fusseg.segmentation.pairing import pair_up
from fusseg.segmentation.sampling import Batch, derangement, draw_batch, query_batches
from fusseg.segmentation.shifts import automatic_shift


def slow_cosine(left, right):
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return product / math.sqrt(sum(a * a for a in left)) / math.sqrt(sum(b * b for b in right))


def slow_cosines(left, right):
    """Cosines of all positions of each image with all positions of its partner, nested lists."""
    return [
        [[slow_cosine(p, q) for q in other] for p in image]
        for image, other in zip(left.tolist(), right.tolist(), strict=True)
    ]


def slow_centering(cosines):
    """Method section 3, step 2: pointwise centering, then one constant for the whole batch."""
    old = [value for image in cosines for row in image for value in row]
    centered = [[[v - sum(row) / len(row) for v in row] for row in image] for image in cosines]
    new = [value for image in centered for row in image for value in row]
    constant = sum(old) / len(old) - sum(new) / len(new)
    return [[[value + constant for value in row] for row in image] for image in centered]


def slow_correspondence_loss(features, others, codes, other_codes, shift):
    centered = slow_centering(slow_cosines(features, others))
    agreement = slow_cosines(codes, other_codes)
    total, count = 0.0, 0
    for f_image, s_image in zip(centered, agreement, strict=True):
        for f_row, s_row in zip(f_image, s_image, strict=True):
            for f, s in zip(f_row, s_row, strict=True):
                total += (f - shift) * max(s, 0.0)
                count += 1
    return -total / count


def slow_clustering_loss(codes, centroids, separation_weight):
    codes, centroids = codes.tolist(), centroids.tolist()
    compactness = sum(max(slow_cosine(s, c) for c in centroids) for s in codes) / len(codes)
    pairs = [
        max(0.0, slow_cosine(c, d))
        for k, c in enumerate(centroids)
        for m, d in enumerate(centroids)
        if k != m
    ]
    return -compactness + separation_weight * sum(pairs) / len(pairs)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_centering_equals_the_loop(seed):
    cosines = draw(seed, 3, 4, 5)
    expected = torch.tensor(slow_centering(cosines.tolist()), dtype=torch.float64)
    torch.testing.assert_close(center_correspondence(cosines), expected)


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.3])
def test_equation_6_equals_the_loop(shift):
    features, others = draw(0, 2, 4, 6), draw(1, 2, 4, 6)
    codes, other_codes = draw(2, 2, 4, 3), draw(3, 2, 4, 3)
    swap = torch.tensor([[1, 0]])
    found = correspondence_loss(
        center_correspondence(pair_up(torch.cat([features, others]), swap).with_neighbor),
        pair_up(torch.cat([codes, other_codes]), swap).with_neighbor,
        shift,
    )
    expected = slow_correspondence_loss(features, others, codes, other_codes, shift)
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("separation_weight", [0.0, 0.7])
def test_equation_5_equals_the_loop(separation_weight):
    codes, centroids = draw(0, 20, 4), draw(1, 5, 4)
    found = clustering_loss(codes, centroids, separation_weight)
    expected = slow_clustering_loss(codes, centroids, separation_weight)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_gradient_of_equation_5_equals_differences_of_the_loop():
    codes, centroids = draw(0, 12, 3), draw(1, 4, 3).requires_grad_(True)
    clustering_loss(codes, centroids, 0.5).backward()
    step = 1e-6
    for k in range(4):
        for d in range(3):
            up, down = centroids.detach().clone(), centroids.detach().clone()
            up[k, d] += step
            down[k, d] -= step
            expected = slow_clustering_loss(codes, up, 0.5) - slow_clustering_loss(codes, down, 0.5)
            assert centroids.grad[k, d].item() == pytest.approx(expected / (2 * step), abs=1e-7)


def test_the_weighted_sum_over_all_pairings_equals_the_loop(seeded):
    queries, neighbors = draw(0, 3, 4, 5), draw(1, 3, 4, 5)
    partners = torch.stack([derangement(3, seeded(seed)) for seed in range(4)])
    head = build_head(initial_head(5, 2, seeded(0))).double()
    local = LocalConfig(
        self_weight=0.3, neighbor_weight=0.5, random_weight=0.9, dropout=0.0, random_supports=4
    )
    batch = Batch(torch.cat([queries, neighbors]), partners)
    kept = torch.ones(6, 1, 5, dtype=torch.bool)
    objective = Objective((0.4, 0.1, 0.2), local, torch.float64)
    found, codes = head_objective(head.state_dict(), batch, kept, None, objective)

    with torch.no_grad():
        own, other = head(queries), head(neighbors)
    torch.testing.assert_close(codes, torch.cat([own, other]).flatten(0, 1))
    expected = 0.3 * slow_correspondence_loss(queries, queries, own, own, 0.4)
    expected += 0.5 * slow_correspondence_loss(queries, neighbors, own, other, 0.1)
    for order in partners:
        support = slow_correspondence_loss(queries, queries[order], own, own[order], 0.2)
        expected += 0.9 * support / 4
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_automatic_shifts_are_quantiles_of_all_sampled_pairs(random_features, seeded):
    features, mean = random_features(0), torch.full((5,), 0.25)
    quantiles = (0.75, 0.80, 0.95)
    local = LocalConfig(
        batch_size=3,
        positions=4,
        random_supports=2,
        shift_batches=3,
        shift_quantiles=quantiles,
    )
    found = automatic_shift(features, mean, local, seeded(7))

    generator, pairs = seeded(7), ([], [], [])
    nearest = nearest_neighbors(torch.from_numpy(features.pooled) - mean, local.neighbors)
    batches = query_batches(len(features), 3, generator)
    for _ in range(3):
        batch = draw_batch(features, nearest, next(batches), mean, local, generator)
        own, near = batch.features.chunk(2)
        others = [own, near, *(own[order] for order in batch.partners)]
        for kind, other in zip((0, 1, 2, 2), others, strict=True):
            centered = slow_centering(slow_cosines(own, other))
            pairs[kind].extend(value for image in centered for row in image for value in row)
    for values, quantile, shift in zip(pairs, quantiles, found, strict=True):
        values.sort()
        place = quantile * (len(values) - 1)
        below = int(place)
        expected = values[below] + (place - below) * (values[below + 1] - values[below])
        assert shift == pytest.approx(expected, abs=1e-5)
