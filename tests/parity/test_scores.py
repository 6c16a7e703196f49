"""Counts, matching and scores against scikit-learn, torchmetrics, and all permutations."""

from itertools import permutations

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.classification import MulticlassJaccardIndex

from fusseg.evaluation.scores import UNMATCHED, count_pixels, match_clusters, score


def draw_masks(seed, num_clusters, num_classes, absent=()):
    """Clusters that follow the classes more often than not, with some pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 20, 15)
    labels = torch.randint(num_classes, shape, generator=generator)
    for label in absent:
        labels[labels == label] = 0
    noise = torch.randint(num_clusters, shape, generator=generator)
    follow = torch.rand(shape, generator=generator) < 0.5
    clusters = torch.where(follow, (labels + 1) % num_clusters, noise)
    labels[torch.rand(shape, generator=generator) < 0.1] = 255
    return clusters.to(torch.uint8), labels.to(torch.uint8)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(5, 5), (3, 6), (7, 4)])
def test_counts_equal_those_of_scikit_learn(num_clusters, num_classes):
    clusters, labels = draw_masks(0, num_clusters, num_classes)
    counted = labels != 255
    size = max(num_clusters, num_classes)
    expected = confusion_matrix(clusters[counted], labels[counted], labels=list(range(size)))
    found = count_pixels(clusters, labels, num_clusters, num_classes)
    assert found.tolist() == expected[:num_clusters, :num_classes].tolist()


@pytest.mark.parametrize(
    ("num_clusters", "num_classes", "absent"),
    [(5, 5, ()), (5, 5, (2, 4)), (3, 6, ()), (8, 4, (1,)), (2, 2, ())],
)
@pytest.mark.parametrize("seed", range(2))
def test_mean_iou_equals_torchmetrics_on_the_matched_masks(num_clusters, num_classes, absent, seed):
    clusters, labels = draw_masks(seed, num_clusters, num_classes, absent)
    counts = [
        count_pixels(image, mask, num_clusters, num_classes)
        for image, mask in zip(clusters, labels, strict=True)
    ]
    found = score(torch.stack(counts).sum(dim=0))

    # An unmatched cluster becomes one more class that no label has.
    classes = torch.where(found.matching == UNMATCHED, num_classes, found.matching)
    metric = MulticlassJaccardIndex(num_classes + 1, average=None, ignore_index=255)
    for image, mask in zip(clusters, labels, strict=True):
        metric.update(classes[image.long()], mask.long())
    present = [label for label in range(num_classes) if label not in absent]
    expected = metric.compute()[present]
    torch.testing.assert_close(found.class_iou[present].float(), expected)
    assert found.mean_iou == pytest.approx(float(expected.mean()), abs=1e-6)
    assert bool(found.class_iou[list(absent)].isnan().all())


@pytest.mark.parametrize(
    ("num_clusters", "num_classes", "absent"),
    [(5, 5, ()), (5, 5, (2, 4)), (3, 6, (5,)), (8, 4, (1,)), (7, 4, ()), (27, 27, (3, 9, 20))],
)
def test_stegos_mean_iou_equals_the_loop_over_pixels(num_clusters, num_classes, absent):
    clusters, labels = draw_masks(3, num_clusters, num_classes, absent)
    found = score(count_pixels(clusters, labels, num_clusters, num_classes))
    matching = found.matching.tolist()
    # True and false positives and false negatives; the last class holds the unmatched clusters.
    right, extra, missed = ([0] * (num_classes + 1) for _ in range(3))
    for cluster, label in zip(clusters.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if label == 255:
            continue
        predicted = num_classes if matching[cluster] == UNMATCHED else matching[cluster]
        right[label] += predicted == label
        extra[predicted] += predicted != label
        missed[label] += predicted != label
    counts = [one for one in zip(right, extra, missed, strict=True) if sum(one) > 0]
    expected = sum(tp / (tp + fp + fn) for tp, fp, fn in counts) / len(counts)
    assert found.mean_iou_stego == pytest.approx(expected, abs=1e-12)


def all_matchings(num_clusters, num_classes):
    """Every one-to-one matching that leaves as few clusters unmatched as possible."""
    if num_clusters <= num_classes:
        yield from permutations(range(num_classes), num_clusters)
        return
    for order in permutations(range(num_clusters), num_classes):
        matching = [UNMATCHED] * num_clusters
        for label, cluster in enumerate(order):
            matching[cluster] = label
        yield tuple(matching)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("largest", [2, 100])
def test_matching_is_the_best_of_all_and_of_equal_ones_that_of_the_largest_iou(
    num_clusters, num_classes, largest
):
    ties = 0
    for seed in range(25):
        generator = torch.Generator().manual_seed(seed)
        shape = (num_clusters, num_classes)
        confusion = torch.randint(0, largest + 1, shape, generator=generator)
        confusion[0, 0] += 1  # at least one pixel
        options = []
        for matching in all_matchings(num_clusters, num_classes):
            hits = sum(int(confusion[k, c]) for k, c in enumerate(matching) if c != UNMATCHED)
            options.append((hits, score(confusion, torch.tensor(matching)).mean_iou))
        most = max(hits for hits, _ in options)
        tied = [iou for hits, iou in options if hits == most]
        ties += max(tied) - min(tied) > 1e-9
        matching = match_clusters(confusion)
        found = score(confusion)
        assert found.pixel_accuracy == pytest.approx(most / int(confusion.sum()))
        assert found.mean_iou == pytest.approx(max(tied), abs=1e-12)
        kept = matching[matching != UNMATCHED].tolist()
        assert len(kept) == len(set(kept)) == min(shape)
    assert largest == 100 or ties > 5  # the rule was put to the test
