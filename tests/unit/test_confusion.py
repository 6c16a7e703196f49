import pytest
import torch

from fusseg.evaluation.scores import count_pixels


def pixels(*values):
    return torch.tensor(values, dtype=torch.uint8)


def test_each_pixel_counts_once_at_its_cluster_and_class():
    counts = count_pixels(pixels(0, 1, 1, 2, 1), pixels(1, 0, 0, 1, 1), 4, 2)
    assert counts.tolist() == [[0, 1], [2, 1], [0, 1], [0, 0]]
    assert counts.dtype == torch.int64


def test_labels_that_are_no_class_are_ignored():
    counts = count_pixels(pixels(0, 0, 1, 1), pixels(255, 1, 2, 0), 2, 2)
    assert counts.tolist() == [[0, 1], [1, 0]]


def test_an_image_without_a_label_counts_nothing():
    assert count_pixels(pixels(0, 1), pixels(255, 255), 2, 3).sum() == 0


def test_images_of_any_shape_are_counted():
    clusters = pixels(0, 1, 1, 0, 0, 1).reshape(2, 3)
    counts = count_pixels(clusters, clusters.clone(), 2, 2)
    assert counts.tolist() == [[3, 0], [0, 3]]


def test_more_pixels_than_a_byte_holds_are_counted():
    counts = count_pixels(pixels(1).expand(1000, 1000), pixels(0).expand(1000, 1000), 2, 1)
    assert counts.tolist() == [[0], [1_000_000]]


@pytest.mark.parametrize("num_classes", [255, 256])
def test_all_values_of_a_byte_can_be_classes(num_classes):
    counts = count_pixels(pixels(254, 0), pixels(255, 254), 255, num_classes)
    assert counts.shape == (255, num_classes)
    assert counts[0, 254] == 1
    assert int(counts.sum()) == (1 if num_classes == 255 else 2)
