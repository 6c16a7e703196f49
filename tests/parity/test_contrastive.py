"""The contrastive objective against loops over anchors, written from its formula."""

import math

import pytest
import torch

from fusseg.config.schema import LocalConfig
from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.losses import contrastive_loss
from fusseg.segmentation.objective import Step
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.objectives.contrastive import (
    NEGATIVE,
    POSITIVE,
    ContrastiveSettings,
    draw_steps,
    estimate_cosines,
    step_losses,
)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def slow_cosine(left, right):
    return slow_dot(left, right) / math.sqrt(slow_dot(left, left) * slow_dot(right, right))


def slow_contrast(similarities, positives, negatives):
    """Mean of -log(P / (P + N)) over the anchors with positives, each sum over its own list."""
    losses = []
    for row, near, far in zip(similarities, positives, negatives, strict=True):
        if near:
            p = sum(math.exp(row[j]) for j in near)
            n = sum(math.exp(row[j]) for j in far)
            losses.append(-math.log(p / (p + n)))
    return sum(losses) / max(len(losses), 1)


def slow_pairs(features, places, random, agreed, settings):
    """Positives and negatives of each position, as lists of positions."""
    positives, negatives = [], []
    for i, own in enumerate(features):
        others = [j for j in range(len(features)) if places[j] != places[i]]
        cosines = {j: slow_cosine(own, features[j]) for j in others}
        if settings.positives == "nearest":
            near = sorted(others, key=lambda j: -cosines[j])[: settings.nearest]
        else:
            near = [j for j in others if cosines[j] > agreed[POSITIVE]]
        if settings.negatives == "random":
            far = [j for j in others if j in random[i]]
        else:
            far = [j for j in others if cosines[j] < agreed[NEGATIVE]]
        positives.append(near)
        negatives.append([j for j in far if j not in near])
    return positives, negatives


def masks(lists, count):
    found = torch.zeros(len(lists), count, dtype=torch.bool)
    for row, entries in enumerate(lists):
        found[row, entries] = True
    return found


LISTS = ([[1, 2], [], [0], [4], [3, 0]], [[3], [0, 2], [], [0, 1, 2], [1]])


def test_the_loss_equals_the_loop():
    similarities = 5 * draw(0, 5, 5)
    found = contrastive_loss(similarities, *(masks(lists, 5) for lists in LISTS))
    assert found.item() == pytest.approx(slow_contrast(similarities.tolist(), *LISTS), abs=1e-12)


def test_the_gradient_equals_differences_of_the_loop():
    similarities, step = draw(1, 5, 5).requires_grad_(True), 1e-6
    contrastive_loss(similarities, *(masks(lists, 5) for lists in LISTS)).backward()
    for i in range(5):
        for j in range(5):
            up, down = similarities.detach().clone(), similarities.detach().clone()
            up[i, j] += step
            down[i, j] -= step
            change = slow_contrast(up.tolist(), *LISTS) - slow_contrast(down.tolist(), *LISTS)
            assert similarities.grad[i, j].item() == pytest.approx(change / (2 * step), abs=1e-8)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("positives", [0.8, "nearest"])
@pytest.mark.parametrize("negatives", [0.4, "random"])
def test_both_losses_of_a_step_equal_the_loops(similarity, positives, negatives, seeded):
    settings = ContrastiveSettings(
        positions=4,
        similarity=similarity,
        temperature=0.5,
        positives=positives,
        negatives=negatives,
        nearest=2,
        random_negatives=3,
        dropout=0.0,
    )
    features = draw(0, 3, 4, 5)
    # The second image is the first one again, and two of its positions are the same, too.
    features[1, :2] = features[0, :2]
    places = torch.tensor([0, 1, 2, 3, 0, 1, 6, 7, 8, 9, 10, 11])
    random = torch.randint(12, (12, 3), generator=seeded(3))
    kept = torch.ones(3, 1, 5, dtype=torch.bool)
    head = build_head(initial_head(5, 2, seeded(0))).double()
    agreed, centroids = {POSITIVE: 0.3, NEGATIVE: -0.1}, draw(2, 3, 2)
    step = Step(features, {"places": places, "kept": kept, "random": random}, {})
    found = step_losses(head.state_dict(), centroids, step, agreed, settings, torch.float64)

    codes = head(features).detach()
    torch.testing.assert_close(found.codes.detach(), codes)
    torch.testing.assert_close(found.inputs, features)
    rows, inputs = codes.flatten(0, 1).tolist(), features.flatten(0, 1).tolist()
    compare = slow_cosine if similarity == "cosine" else slow_dot
    similarities = [[compare(one, other) / 0.5 for other in rows] for one in rows]
    pairs = slow_pairs(inputs, places.tolist(), random.tolist(), agreed, settings)
    assert found.head.item() == pytest.approx(slow_contrast(similarities, *pairs), abs=1e-10)
    best = [max(slow_cosine(row, c) for c in centroids.tolist()) for row in rows]
    assert found.centroids.item() == pytest.approx(-sum(best) / 12, abs=1e-12)


def test_estimated_cosines_are_quantiles_of_all_pairs_of_two_places(random_features, seeded):
    features, mean = random_features(0, num_images=4), torch.full((5,), 0.25)
    table = {"positions": 4, "positives": 0.9, "negatives": 0.3, "quantile_batches": 2}
    config = LocalConfig(objective="contrastive", batch_size=3, tables={"contrastive": table})
    local = settle_local(config, num_clusters=2)
    found = estimate_cosines(features, mean, local, seeded(7))
    steps, pairs = draw_steps(4, features.map_shape, None, local, seeded(7)), []
    for _ in range(2):
        step = next(steps)
        rows = (features.gather(step.images, step.positions) - mean).flatten(0, 1).tolist()
        places = step.tensors["places"].tolist()
        pairs += [
            slow_cosine(one, other)
            for i, one in enumerate(rows)
            for j, other in enumerate(rows)
            if places[i] != places[j]
        ]
    pairs.sort()
    for name, quantile in ((POSITIVE, 0.9), (NEGATIVE, 0.3)):
        spot = quantile * (len(pairs) - 1)
        below = int(spot)
        expected = pairs[below] + (spot - below) * (pairs[below + 1] - pairs[below])
        assert found[name] == pytest.approx(expected, abs=1e-5)
