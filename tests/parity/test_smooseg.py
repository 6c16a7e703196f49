"""The smoothness objective against loops over pairs of positions, written from its formulas."""

import math

import pytest
import torch

from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.objective import Step
from fusseg.segmentation.objectives.smooseg import SmoosegSettings, step_losses


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_cosine(left, right):
    product = sum(a * b for a, b in zip(left, right, strict=True))
    lengths = math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))
    return product / lengths


def slow_softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def slow_smoothness(pairs, features, assigned, shift):
    """Mean over pairs of images and of their positions of (W - b)(1 - cos(p, p'))."""
    terms = []
    for image, other in pairs:
        for f, p in zip(features[image], assigned[image], strict=True):
            row = [slow_cosine(f, g) for g in features[other]]
            for cosine, q in zip(row, assigned[other], strict=True):
                close = cosine - sum(row) / len(row)
                terms.append((close - shift) * (1 - slow_cosine(p, q)))
    return sum(terms) / max(len(terms), 1)


def slow_losses(features, codes, centroids, teacher, partners, images, settings):
    assigned = [
        [slow_softmax([slow_cosine(s, g) / settings.temperature for g in teacher]) for s in image]
        for image in codes
    ]
    own = [(image, image) for image in range(len(codes))]
    others = [
        (image, other) for image, other in enumerate(partners) if images[image] != images[other]
    ]
    within = slow_smoothness(own, features, assigned, settings.within_shift)
    across = slow_smoothness(others, features, assigned, settings.across_shift)
    entropies = []
    for image in codes:
        for s in image:
            y = max(range(len(teacher)), key=lambda k: slow_cosine(s, teacher[k]))
            entropies.append(-math.log(slow_softmax([slow_cosine(s, c) for c in centroids])[y]))
    return within + across, sum(entropies) / len(entropies)


IMAGES = ([0, 1, 2], [0, 1, 0], [4, 4, 4])


@pytest.mark.parametrize("images", IMAGES)
def test_both_losses_of_a_step_equal_the_loops(images, seeded):
    settings = SmoosegSettings(temperature=0.3, within_shift=-0.1, across_shift=0.2, dropout=0.0)
    features = draw(0, 5, 4, 6)[images]
    centroids, teacher, partners = draw(1, 3, 2), draw(2, 3, 2), torch.tensor([2, 0, 1])
    drawn = {
        "partners": partners,
        "counted": torch.tensor(images)[partners] != torch.tensor(images),
        "kept": torch.ones(3, 1, 6, dtype=torch.bool),
    }
    head = build_head(initial_head(6, 2, seeded(0))).double()
    step = Step(features, drawn, {"teacher": teacher})
    found = step_losses(head.state_dict(), centroids, step, {}, settings, torch.float64)
    codes = head(features).detach()
    torch.testing.assert_close(found.codes.detach(), codes)
    lists = [one.tolist() for one in (features, codes, centroids, teacher, partners)]
    head_loss, centroid_loss = slow_losses(*lists, images, settings)
    assert found.head.item() == pytest.approx(head_loss, abs=1e-12)
    assert found.centroids.item() == pytest.approx(centroid_loss, abs=1e-12)


def test_the_gradients_are_those_of_the_loops(seeded):
    """Codes follow the smoothness alone, and centroids the labels alone."""
    settings = SmoosegSettings(temperature=0.3, dropout=0.0)
    features, teacher, partners = draw(0, 2, 3, 6), draw(2, 3, 2), torch.tensor([1, 0])
    centroids = draw(1, 3, 2).requires_grad_(True)
    drawn = {
        "partners": partners,
        "counted": torch.tensor([True, True]),
        "kept": torch.ones(2, 1, 6, dtype=torch.bool),
    }
    head = build_head(initial_head(6, 2, seeded(0))).double()
    weights = dict(head.named_parameters())
    step = Step(features, drawn, {"teacher": teacher})
    found = step_losses(weights, centroids, step, {}, settings, torch.float64)
    (found.head + found.centroids).backward()

    def losses():
        lists = [one.tolist() for one in (features, head(features), centroids, teacher, partners)]
        return slow_losses(*lists, [0, 1], settings)

    bias, change = head.linear.bias, 1e-6
    for tensor, place in ((bias, 0), (centroids, 1)):
        for index in range(tensor.numel()):
            moved = []
            for sign in (1, -1):
                with torch.no_grad():
                    tensor.view(-1)[index] += sign * change
                    moved.append(losses()[place])
                    tensor.view(-1)[index] -= sign * change
            expected = (moved[0] - moved[1]) / (2 * change)
            assert tensor.grad.view(-1)[index].item() == pytest.approx(expected, abs=1e-7)
