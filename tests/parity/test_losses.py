"""Equations 5 and 6 and the quantile rule of the shifts against loops over positions."""

import math

import numpy as np
import pytest
import torch

from fusseg.config.schema import LocalConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.losses import (
    center_correspondence,
    clustering_loss,
    correspondence_loss,
    pair_up,
)
from fusseg.segmentation.objective import Model, Step
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.objectives.stego import (
    SHIFTS,
    StegoSettings,
    estimate_shifts,
    estimate_shifts_at_start,
    step_losses,
)
from fusseg.segmentation.sampling import derangement, draw_batch, query_batches


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


def slow_random_loss(images, features, codes, partners, shift):
    """Mean over the remaining pairs of all supports; each support is centered on its own."""
    total, count = 0.0, 0
    for order in partners.tolist():
        kept = [place for place, other in enumerate(order) if images[place] != images[other]]
        others = [order[place] for place in kept]
        if kept:
            loss = slow_correspondence_loss(
                features[kept], features[others], codes[kept], codes[others], shift
            )
            total, count = total + loss * len(kept), count + len(kept)
    return total / max(count, 1)


@pytest.mark.parametrize("images", [[0, 1, 2, 3], [0, 1, 0, 2], [1, 1, 0, 1], [2, 2, 2, 2]])
def test_both_losses_of_a_step_equal_the_loops(images, seeded):
    queries, neighbors = draw(0, 4, 4, 5)[images], draw(1, 4, 4, 5)
    partners = torch.stack([derangement(4, seeded(seed)) for seed in range(4)])
    head = build_head(initial_head(5, 2, seeded(0))).double()
    settings = StegoSettings(
        self_weight=0.3, neighbor_weight=0.5, random_weight=0.9, separation_weight=0.7, dropout=0.0
    )
    counted = torch.tensor(images)[partners] != torch.tensor(images)
    kept = torch.ones(8, 1, 5, dtype=torch.bool)
    drawn = {"partners": partners, "counted": counted, "kept": kept}
    step = Step(torch.cat([queries, neighbors]), drawn, {})
    agreed, centroids = dict(zip(SHIFTS, (0.4, 0.1, 0.2), strict=True)), draw(2, 3, 2)
    found = step_losses(head.state_dict(), centroids, step, agreed, settings, torch.float64)

    with torch.no_grad():
        own, other = head(queries), head(neighbors)
    torch.testing.assert_close(found.codes, torch.cat([own, other]))
    torch.testing.assert_close(found.inputs, step.features)
    expected = 0.3 * slow_correspondence_loss(queries, queries, own, own, 0.4)
    expected += 0.5 * slow_correspondence_loss(queries, neighbors, own, other, 0.1)
    expected += 0.9 * slow_random_loss(images, queries, own, partners, 0.2)
    assert found.head.item() == pytest.approx(expected, abs=1e-12)
    expected = slow_clustering_loss(torch.cat([own, other]).flatten(0, 1), centroids, 0.7)
    assert found.centroids.item() == pytest.approx(expected, abs=1e-12)


def sampled_pairs(features, mean, local, generator):
    """Yield the kind of pair and the features of both sides, drawn as for the estimated shifts."""
    nearest = nearest_neighbors(torch.from_numpy(features.pooled) - mean, local.settings.neighbors)
    batches = query_batches(len(features), 3, generator)
    for _ in range(3):
        batch = draw_batch(features, nearest, next(batches), mean, 4, 2, generator)
        own, near = batch.features.chunk(2)
        pairings = [(own, own), (own, near)]
        for order, counted in zip(batch.partners, batch.counted, strict=True):
            pairings.append((own[counted], own[order][counted]))
        for kind, (some, other) in zip((0, 1, 2, 2), pairings, strict=True):
            if len(some) > 0:
                yield kind, some, other


@pytest.mark.parametrize("num_images", [2, 6])
def test_estimated_shifts_are_quantiles_of_all_sampled_pairs(num_images, random_features, seeded):
    features = random_features(0, num_images=num_images)
    mean = torch.full((5,), 0.25)
    quantiles = (0.75, 0.80, 0.95)
    stego = {
        "positions": 4,
        "random_supports": 2,
        "shift_batches": 3,
        "shift_quantiles": list(quantiles),
    }
    local = settle_local(LocalConfig(batch_size=3, tables={"stego": stego}), num_clusters=27)
    found = estimate_shifts(features, mean, local, seeded(7))
    assert tuple(found) == SHIFTS

    pairs = ([], [], [])
    for kind, some, other in sampled_pairs(features, mean, local, seeded(7)):
        centered = slow_centering(slow_cosines(some, other))
        pairs[kind].extend(value for image in centered for row in image for value in row)
    for values, quantile, shift in zip(pairs, quantiles, found.values(), strict=True):
        values.sort()
        place = quantile * (len(values) - 1)
        below = int(place)
        expected = values[below] + (place - below) * (values[below + 1] - values[below])
        assert shift == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("num_images", [2, 6])
def test_the_quantiles_of_the_start_are_shares_of_pairs_in_two_regions(
    num_images, random_features, seeded
):
    features, mean = random_features(0, num_images=num_images), torch.full((5,), 0.25)
    stego = {"positions": 4, "random_supports": 2, "shift_batches": 3}
    local = settle_local(LocalConfig(batch_size=3, tables={"stego": stego}), num_clusters=3)
    start = Model(initial_head(5, 2, seeded(1)), draw(4, 3, 2).float())
    found = estimate_shifts_at_start(features, mean, start, local, seeded(7))
    assert tuple(found) == SHIFTS

    pairs, apart, head = ([], [], []), ([], [], []), build_head(start.head)

    def region(vector):
        with torch.no_grad():
            code = head(vector)
        return max(
            range(3), key=lambda k: float(torch.cosine_similarity(code, start.centroids[k], 0))
        )

    for kind, some, other in sampled_pairs(features, mean, local, seeded(7)):
        centered = slow_centering(slow_cosines(some, other))
        pairs[kind].extend(value for image in centered for row in image for value in row)
        apart[kind].extend(
            region(left) != region(right)
            for one, two in zip(some, other, strict=True)
            for left in one
            for right in two
        )
    for values, different, shift in zip(pairs, apart, found.values(), strict=True):
        quantile = sum(different) / len(different)
        assert shift == pytest.approx(float(np.quantile(values, quantile)), abs=1e-6)
