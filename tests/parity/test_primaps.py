"""Masks, labels and loss of PriMaPs against loops over positions, written from the formulas."""

import math

import numpy as np
import pytest
import torch

from fusseg.features.principal_masks import (
    NO_MASK,
    MaskSettings,
    first_eigenvector,
    principal_masks,
)
from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.objective import Step
from fusseg.segmentation.objectives.primaps import PrimapsSettings, step_losses


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_cosine(left, right):
    product = sum(a * b for a, b in zip(left, right, strict=True))
    lengths = math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))
    return product / lengths


def slow_masks(features, threshold, coverage, most):
    """One mask after the other; the principal direction is that of the covariance matrix."""
    masks, left = [NO_MASK] * len(features), list(range(len(features)))
    for number in range(most):
        if len(features) - len(left) >= coverage * len(features):
            break
        rows = np.array([features[i] for i in left])
        direction = np.linalg.eigh(np.cov(rows.T, bias=True))[1][:, -1]
        seed = max(left, key=lambda i: abs(slow_cosine(features[i], direction)))
        similarities = {i: slow_cosine(features[i], features[seed]) for i in left}
        largest = max(similarities.values())
        for i in left:
            if similarities[i] >= threshold * largest:
                masks[i] = number
        left = [i for i in left if masks[i] == NO_MASK]
    return masks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("threshold", "coverage", "most"), [(0.4, 0.95, 64), (0.7, 1.0, 64), (0.4, 1.0, 2)]
)
def test_masks_equal_the_loop(seed, threshold, coverage, most):
    # Three kinds of features of different frequency: their directions are far apart.
    kinds = draw(seed, 3, 6)[torch.randint(3, (40,), generator=torch.Generator().manual_seed(seed))]
    features = 3 * kinds + 0.5 * draw(100 + seed, 40, 6)
    found = principal_masks(features, MaskSettings(threshold, coverage, most)).tolist()
    assert found == slow_masks(features.tolist(), threshold, coverage, most)
    assert len(set(found)) > 1


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 60])
def test_the_first_eigenvector_is_that_of_the_whole_decomposition(size):
    factor = draw(size, size, size + 3)
    matrix = factor @ factor.T
    found, expected = first_eigenvector(matrix), torch.linalg.eigh(matrix).eigenvectors[:, -1]
    assert abs(float(found @ expected)) == pytest.approx(1, abs=1e-4)
    assert float(found.norm()) == pytest.approx(1, abs=1e-9)


def slow_loss(codes, centroids, teacher, masks, temperature, focus):
    """A mask's label is the mode of the teacher's clusters; rare clusters weigh more."""
    clusters = [
        [max(range(len(teacher)), key=lambda k: slow_cosine(s, teacher[k])) for s in image]
        for image in codes
    ]
    probabilities, labels = [], []
    for image, own, of_image in zip(codes, clusters, masks, strict=True):
        for s, mask in zip(image, of_image, strict=True):
            powers = [math.exp(slow_cosine(s, c) / temperature) for c in centroids]
            probabilities.append([power / sum(powers) for power in powers])
            votes = [k for k, other in zip(own, of_image, strict=True) if other == mask]
            label = max(range(len(centroids)), key=votes.count)
            labels.append(None if mask == NO_MASK else label)
    means = [sum(p[k] for p in probabilities) / len(labels) for k in range(len(centroids))]
    losses = [
        -((1 - means[y]) ** focus) * math.log(p[y])
        for p, y in zip(probabilities, labels, strict=True)
        if y is not None
    ]
    return sum(losses) / max(len(losses), 1)


@pytest.mark.parametrize("focus", [0.0, 2.0])
def test_the_loss_of_a_step_equals_the_loop(focus, seeded):
    settings = PrimapsSettings(temperature=0.3, focus=focus)
    features, centroids, teacher = draw(0, 3, 8, 5), draw(1, 4, 2), draw(2, 4, 2)
    masks = torch.randint(3, (3, 8), generator=seeded(3), dtype=torch.uint8)
    masks[0, 3] = masks[2, 5] = NO_MASK
    head = build_head(initial_head(5, 2, seeded(0))).double()
    weights = {name: weight.detach() for name, weight in head.state_dict().items()}
    step = Step(features, {"masks": masks}, {"teacher": teacher})
    found = step_losses(weights, centroids, step, {}, settings, torch.float64)
    codes = head(features).detach()
    torch.testing.assert_close(found.codes, codes)
    lists = [one.tolist() for one in (codes, centroids, teacher, masks)]
    assert found.centroids.item() == pytest.approx(slow_loss(*lists, 0.3, focus), abs=1e-10)
    assert found.head.item() == 0


def test_the_gradient_is_that_of_the_loop_with_fixed_weights(seeded):
    features, centroids = draw(0, 2, 6, 5), draw(1, 3, 2).requires_grad_(True)
    teacher, masks = draw(2, 3, 2), torch.randint(2, (2, 6), generator=seeded(3))
    head = build_head(initial_head(5, 2, seeded(0))).double()
    weights = {name: weight.detach() for name, weight in head.state_dict().items()}
    step = Step(features, {"masks": masks}, {"teacher": teacher})
    # Without weights of the clusters, which have no gradient, the loop is all there is.
    settings = PrimapsSettings(temperature=0.3, focus=0.0)
    step_losses(weights, centroids, step, {}, settings, torch.float64).centroids.backward()
    lists = [one.tolist() for one in (head(features), teacher, masks)]
    change = 1e-6
    for k in range(3):
        for d in range(2):
            losses = []
            for sign in (1, -1):
                moved = centroids.detach().clone()
                moved[k, d] += sign * change
                losses.append(slow_loss(lists[0], moved.tolist(), *lists[1:], 0.3, 0.0))
            expected = (losses[0] - losses[1]) / (2 * change)
            assert centroids.grad[k, d].item() == pytest.approx(expected, abs=1e-7)
