"""The same posteriors as scikit-learn's linear discriminant, and trials as by refitting."""

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fusseg.segmentation.classifier import (
    SHRINKAGES,
    TEMPERATURES,
    fit_classifier,
    sum_classes,
    try_without,
)


def drawn(seed, positions=40, num_classes=3, dim=5):
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(num_classes, dim, generator=generator)
    # As many of each class: scikit-learn weighs covariances by priors, which are equal here.
    labels = torch.arange(num_classes).repeat(positions)
    spread = torch.randn(dim, dim, generator=generator)
    noise = torch.randn(len(labels), dim, generator=generator) @ spread
    return means[labels] + noise, labels


def test_posteriors_are_those_of_scikit_learn():
    features, labels = drawn(0)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3)
    theirs.fit(features.double().numpy(), labels.numpy())
    ours = fit_classifier(sum_classes(features, labels, 3), 0.0, 1.0)
    points = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    found = ours.logits(points).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, theirs.predict_proba(points.numpy()), atol=1e-4)


def test_shrinkage_adds_a_share_of_the_mean_variance_to_all():
    features, labels = drawn(2)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3, shrinkage=0.2)
    theirs.fit(features.double().numpy(), labels.numpy())
    # (1 - s) S + s v I is in proportion to S + s / (1 - s) v I.
    ours = fit_classifier(sum_classes(features, labels, 3), 0.2 / 0.8, 0.8)
    points = torch.randn(50, 5, generator=torch.Generator().manual_seed(3))
    found = ours.logits(points).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, theirs.predict_proba(points.numpy()), atol=1e-4)


def test_trials_are_those_of_classifiers_that_are_fitted_one_by_one():
    features, labels = drawn(4)
    image, own = drawn(5, positions=7)
    others = sum_classes(features, labels, 3)
    found = try_without(others, image, own)
    for place, shrinkage in enumerate(SHRINKAGES):
        plain = fit_classifier(others, shrinkage, 1.0)
        predicted = plain.logits(image).argmax(dim=1)
        counts = torch.zeros(3, 3, dtype=torch.int64)
        for one, label in zip(predicted.tolist(), own.tolist(), strict=True):
            counts[one, label] += 1
        assert torch.equal(found.confusion[place], counts)
        for spot, temperature in enumerate(TEMPERATURES):
            posterior = fit_classifier(others, shrinkage, temperature).logits(image).log_softmax(1)
            expected = posterior[torch.arange(len(own)), own].double().sum()
            torch.testing.assert_close(
                found.likelihood[place, spot], expected, rtol=1e-4, atol=1e-3
            )
