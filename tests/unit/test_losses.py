import math

import torch

from fusseg.segmentation.losses import (
    center_correspondence,
    clustering_loss,
    correspondence_loss,
)


def test_centering_subtracts_the_mean_over_the_other_image_and_keeps_the_batch_mean():
    cosines = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[-1.0, 1.0], [0.2, -0.2]]])
    # Row means 0.5, 0.5, 0, 0; what is left has mean 0, and the batch had mean 0.25.
    expected = torch.tensor([[[0.75, -0.25], [0.25, 0.25]], [[-0.75, 1.25], [0.45, 0.05]]])
    torch.testing.assert_close(center_correspondence(cosines), expected)


def test_centering_averages_over_the_other_positions_not_over_the_query_positions():
    cosines = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(center_correspondence(cosines), torch.tensor([[[1.0, 0], [1, 0]]]))
    turned = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(center_correspondence(turned), torch.full((1, 2, 2), 0.5))


def test_correspondence_loss_weighs_positive_code_cosines_by_the_shifted_features():
    centered = torch.tensor([[[0.9, 0.1]]])
    codes = torch.tensor([[[0.5, 0.4]]])
    # -((0.9 - 0.3) * 0.5 + (0.1 - 0.3) * 0.4) / 2
    loss = correspondence_loss(centered, codes, 0.3)
    torch.testing.assert_close(loss, torch.tensor(-0.11))


def test_correspondence_loss_ignores_codes_that_already_point_apart():
    codes = torch.tensor([[[-0.5, -0.1]]], requires_grad=True)
    loss = correspondence_loss(torch.tensor([[[0.9, -0.9]]]), codes, 0.3)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(codes.grad, torch.zeros(1, 1, 2))


def test_clustering_loss_is_the_negative_mean_cosine_to_the_nearest_centroid():
    codes = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    centroids = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    loss = clustering_loss(codes, centroids, 0.0)
    torch.testing.assert_close(loss, torch.tensor(-(1 + 1 + math.sqrt(0.5)) / 3))


def test_separation_is_the_mean_positive_cosine_between_different_centroids():
    codes = torch.tensor([[1.0, 0.0]])
    centroids = torch.tensor([[2.0, 0.0], [3.0, 4.0], [-1.0, 0.0]])
    # Cosines 0.6, -1, -0.6; six ordered pairs of which two hold the positive 0.6.
    loss = clustering_loss(codes, centroids, 0.5)
    torch.testing.assert_close(loss, torch.tensor(-1 + 0.5 * (2 * 0.6) / 6))


def test_separation_pushes_similar_centroids_apart_and_leaves_opposite_ones():
    codes = torch.tensor([[0.0, 0.0, 1.0]])
    centroids = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [-1.0, -2.0, 0.0]])
    centroids.requires_grad_(True)
    separated = clustering_loss(codes, centroids, 1.0)
    (gradient,) = torch.autograd.grad(separated, centroids)
    assert gradient[0, 1] > 0  # a step downhill turns it away from the second
    assert torch.equal(gradient[2, :2], torch.zeros(2))


def test_a_code_of_length_zero_makes_no_nan():
    codes, centroids = torch.zeros(1, 2), torch.eye(2).requires_grad_(True)
    loss = clustering_loss(codes, centroids, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert bool(centroids.grad.isfinite().all())
