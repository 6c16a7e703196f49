import re

import numpy as np
import pytest
import torch

from fusseg.core.errors import DataError
from fusseg.evaluation.probe import ProbeConfig, linear_probe, majority_labels


def separable(images, seed=0, classes=3):
    """Draw feature maps in which class c is the largest channel, and 2 channels are noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, (images, 4, 5)).astype(np.uint8)
    features = generator.normal(size=(images, classes + 2, 4, 5)).astype(np.float16)
    for label in range(classes):
        features[:, label] += 20 * (labels == label)
    return features, labels


def test_separable_classes_are_told_apart_perfectly():
    scores = linear_probe(separable(6), separable(4, seed=1), num_classes=3)
    assert scores.mean_iou == 1.0
    assert scores.pixel_accuracy == 1.0


def test_a_class_keeps_its_own_index():
    scores = linear_probe(separable(6), separable(4, seed=1), num_classes=3)
    assert scores.matching.tolist() == [0, 1, 2]


def test_wrong_test_labels_are_wrong_without_matching():
    features, labels = separable(4, seed=1, classes=2)
    scores = linear_probe(separable(6, classes=2), (features, 1 - labels), num_classes=2)
    assert scores.mean_iou == 0.0


def test_scores_come_from_summed_counts():
    features, labels = separable(6, classes=2)
    truth = np.zeros((2, 1, 2), np.uint8)
    truth[1] = [[1, 1]]
    maps = np.zeros((2, 4, 1, 2), np.float32)
    # predicted class 0, 0 for truth 0, 0 and class 0, 1 for truth 1, 1
    maps[:, 0], maps[1, 0, 0, 1], maps[1, 1, 0, 1] = 20, 0, 20
    scores = linear_probe((features, labels), (maps, truth), num_classes=2)
    assert torch.allclose(scores.class_iou, torch.tensor([2 / 3, 1 / 2], dtype=torch.float64))
    assert scores.mean_iou == pytest.approx(7 / 12)
    assert scores.pixel_accuracy == 0.75


def test_ignored_labels_neither_train_nor_count():
    features, labels = separable(6)
    spoiled, ignored = features.copy(), labels.copy()
    spoiled[:, :, 0], ignored[:, 0] = 1000, 255
    scores = linear_probe((spoiled, ignored), (spoiled, ignored), num_classes=3)
    assert scores.mean_iou == 1.0


def test_the_same_seed_gives_the_same_scores():
    generator = np.random.default_rng(2)
    train = separable(6)[0], generator.integers(0, 3, (6, 4, 5)).astype(np.uint8)
    test = separable(4, seed=1)
    config = ProbeConfig(num_positions=40, seed=3)
    first, second = (linear_probe(train, test, 3, config) for _ in range(2))
    other = linear_probe(train, test, 3, ProbeConfig(num_positions=40, seed=4))
    assert first.mean_iou == second.mean_iou
    assert first.mean_iou != other.mean_iou


@pytest.mark.parametrize(("label", "found"), [(1, "[1]"), (255, "[]")])
def test_a_probe_needs_two_classes(label, found):
    features, labels = separable(2)
    message = f"a probe needs labels of at least 2 classes, got {found}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        linear_probe((features, np.full_like(labels, label)), (features, labels), num_classes=3)


def test_a_position_takes_the_most_frequent_label_of_its_cell():
    mask = np.array([[0, 2, 1, 1], [2, 2, 0, 0], [255, 255, 4, 4], [3, 255, 4, 4]], np.uint8)
    assert majority_labels(mask, 2).tolist() == [[2, 0], [255, 4]]
