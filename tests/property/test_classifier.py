"""The classifier of a federation is that of the pooled labels, however they are dealt out."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.segmentation.classifier import (
    ClassSums,
    add_trials,
    choose_numbers,
    fit_classifier,
    no_trials,
    sum_classes,
    try_without,
)

NUM_CLASSES = 3


@st.composite
def labeled_images(draw):
    """Images of features around the means of three classes, and a client for each."""
    seed, number = draw(st.integers(0, 10_000)), draw(st.integers(2, 7))
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(NUM_CLASSES, 4, generator=generator)
    images = []
    for _ in range(number):
        labels = torch.randint(NUM_CLASSES, (12,), generator=generator)
        features = means[labels] + torch.randn(12, 4, generator=generator)
        images.append((features, labels))
    clients = draw(st.lists(st.integers(0, 3), min_size=number, max_size=number))
    return images, clients


def total(found):
    return ClassSums(
        sum(one.counts for one in found),
        sum(one.first for one in found),
        sum(one.second for one in found),
    )


def taught(images, clients):
    """Sums and trials client by client, as they are exchanged."""
    groups = [
        [image for image, own in zip(images, clients, strict=True) if own == client]
        for client in sorted(set(clients))
    ]
    pooled = total(
        [total([sum_classes(*image, NUM_CLASSES) for image in group]) for group in groups]
    )
    trials = no_trials(NUM_CLASSES)
    for group in groups:
        for features, labels in group:
            others = pooled.without(sum_classes(features, labels, NUM_CLASSES))
            trials = add_trials(trials, try_without(others, features, labels))
    chosen = choose_numbers(trials)
    return chosen, fit_classifier(pooled, chosen.shrinkage, chosen.temperature)


@given(labeled_images())
def test_any_partition_gives_the_pooled_classifier(drawn):
    images, clients = drawn
    chosen, found = taught(images, clients)
    expected_numbers, expected = taught(images, [0] * len(images))
    assert chosen == expected_numbers
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)


@given(labeled_images())
def test_sums_are_those_of_all_positions_at_once(drawn):
    images, _ = drawn
    pooled = total([sum_classes(*image, NUM_CLASSES) for image in images])
    features = torch.cat([one for one, _ in images])
    labels = torch.cat([labels for _, labels in images])
    whole = sum_classes(features, labels, NUM_CLASSES)
    assert torch.equal(pooled.counts, whole.counts)
    torch.testing.assert_close(pooled.first, whole.first)
    torch.testing.assert_close(pooled.second, whole.second)
