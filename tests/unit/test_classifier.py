"""The linear discriminant of class statistics, on numbers computed by hand."""

import math

import pytest
import torch

from fusseg.segmentation.classifier import (
    SHRINKAGES,
    TEMPERATURES,
    USUAL_SHRINKAGE,
    USUAL_TEMPERATURE,
    Classifier,
    Trials,
    check_classifier,
    choose_numbers,
    fit_classifier,
    lacking_classes,
    no_trials,
    sum_classes,
    try_without,
)

LEFT = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
"""Mean (-1, 0), a variance of 1/2 in each direction, and no covariance."""


def two_classes():
    features = torch.cat([LEFT, -LEFT])
    return features, torch.tensor([0] * 4 + [1] * 4)


def test_sums_of_parts_are_the_sums_of_the_whole():
    features, labels = two_classes()
    whole = sum_classes(features, labels, 2)
    parts = [sum_classes(features[part], labels[part], 2) for part in (slice(0, 3), slice(3, 8))]
    assert torch.equal(whole.counts, parts[0].counts + parts[1].counts)
    assert torch.equal(whole.first, parts[0].first + parts[1].first)
    assert torch.equal(whole.second, parts[0].second + parts[1].second)
    rest = whole.without(parts[0])
    assert torch.equal(rest.counts, parts[1].counts)
    assert torch.equal(rest.second, parts[1].second)


def test_weights_are_the_means_over_the_shrunk_variance():
    features, labels = two_classes()
    sums = sum_classes(features, labels, 2)
    # Both variances are 1/2, and so is their mean.
    plain = fit_classifier(sums, 0.0, 1.0)
    torch.testing.assert_close(plain.weight, torch.tensor([[-2.0, 0.0], [2.0, 0.0]]))
    torch.testing.assert_close(plain.bias, torch.tensor([-1.0, -1.0]))
    shrunk = fit_classifier(sums, 3.0, 2.0)
    torch.testing.assert_close(shrunk.weight, torch.tensor([[-0.25, 0.0], [0.25, 0.0]]))
    torch.testing.assert_close(shrunk.bias, torch.tensor([-0.125, -0.125]))


def test_the_posterior_is_that_of_two_normal_densities():
    features, labels = two_classes()
    found = fit_classifier(sum_classes(features, labels, 2), 0.0, 1.0)
    point = torch.tensor([[0.25, 7.0]])
    posterior = found.logits(point).softmax(dim=1)
    densities = [math.exp(-((0.25 - mean) ** 2)) for mean in (-1, 1)]
    assert posterior[0, 0] == pytest.approx(densities[0] / sum(densities), abs=1e-5)


def test_an_image_is_classified_by_the_others():
    features, labels = two_classes()
    others = sum_classes(features, labels, 2)
    image, own = torch.tensor([[-1.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 0])
    trials = try_without(others, image, own)
    # The second position is nearer to the other class.
    assert trials.confusion.shape == (len(SHRINKAGES), 2, 2)
    assert trials.confusion[0].tolist() == [[1, 0], [1, 0]]
    place = TEMPERATURES.index(1.0)
    # Logits are 2 f - 1 and -2 f - 1 without shrinkage; the smallest shrinkage is 0.001.
    wide = 2 / (1 + SHRINKAGES[0])
    expected = sum(-math.log1p(math.exp(2 * wide * value)) for value in (-1.0, 0.5))
    assert float(trials.likelihood[0, place]) == pytest.approx(expected, abs=1e-5)


def test_a_class_of_the_left_out_image_alone_is_wrong_and_not_in_the_likelihood():
    features, labels = two_classes()
    others = sum_classes(features, labels, 3)
    image, own = torch.tensor([[-1.0, 0.0], [9.0, 9.0]]), torch.tensor([0, 2])
    trials = try_without(others, image, own)
    assert trials.confusion[0, :, 2].tolist() == [0, 1, 0]
    alone = try_without(others, image[:1], own[:1])
    torch.testing.assert_close(trials.likelihood, alone.likelihood)


def test_nothing_is_tried_without_other_images():
    image, own = torch.zeros(2, 2), torch.tensor([0, 1])
    nothing = sum_classes(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 2)
    assert not bool(try_without(nothing, image, own).confusion.any())
    chosen = choose_numbers(no_trials(2))
    assert (chosen.shrinkage, chosen.temperature) == (USUAL_SHRINKAGE, USUAL_TEMPERATURE)
    assert chosen.mean_iou is None


def test_the_best_shrinkage_is_chosen_and_the_larger_of_equal_ones():
    trials = no_trials(2)
    trials.confusion[:] = torch.tensor([[2, 2], [2, 2]])
    trials.confusion[2] = torch.tensor([[4, 0], [0, 4]])
    trials.confusion[4] = torch.tensor([[4, 0], [0, 4]])
    likelihood = torch.full_like(trials.likelihood, -9.0)
    likelihood[4, 3] = -1.0
    chosen = choose_numbers(Trials(trials.confusion, likelihood))
    assert chosen.shrinkage == SHRINKAGES[4]
    assert chosen.temperature == TEMPERATURES[3]
    assert chosen.mean_iou == 1.0


def test_features_without_any_spread_within_the_classes_give_finite_weights():
    features, labels = torch.tensor([[0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 1])
    sums = sum_classes(features, labels, 2)
    found = fit_classifier(sums, 0.0, 1.0)
    torch.testing.assert_close(found.weight, features)
    assert found.logits(features).argmax(dim=1).tolist() == [0, 1]
    assert bool(
        try_without(sum_classes(features, labels, 2), features, labels).likelihood.isfinite().all()
    )


def test_classes_with_too_few_positions_are_listed():
    assert lacking_classes([0, 2, 3, 100]) == [0, 1]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"weight": torch.zeros(2, 4)}, "weight of a classifier of shape (2, 4), not (2, 3)"),
        ({"bias": torch.zeros(2, dtype=torch.float64)}, "bias of a classifier"),
        ({"bias": torch.tensor([0.0, math.nan])}, "bias of a classifier that is not finite"),
        ({"unknown_below": 1.0}, "unknown below a posterior of 1.0"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(change, fragment):
    fitting = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "unknown_below": 0.0}
    check_classifier(Classifier(**fitting), 2, 3)
    with pytest.raises(ValueError, match=fragment.replace("(", r"\(").replace(")", r"\)")):
        check_classifier(Classifier(**{**fitting, **change}), 2, 3)


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="a classifier of 1 classes"):
        check_classifier(Classifier(torch.zeros(1, 3), torch.zeros(1)), 1, 3)
