import math

import torch
from torch.nn.functional import cosine_similarity, normalize

from fusseg.segmentation.adam import Adam
from fusseg.segmentation.losses import (
    center_correspondence,
    clustering_loss,
    correspondence_loss,
    share_weights,
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


def test_pairs_that_count_share_the_weight_of_those_that_do_not():
    weights = share_weights(torch.tensor([[True, False], [True, True]]), torch.float32)
    torch.testing.assert_close(weights, torch.tensor([[4 / 3, 0.0], [4 / 3, 4 / 3]]))
    assert share_weights(torch.zeros(3, dtype=torch.bool), torch.float32).tolist() == [0, 0, 0]
    assert share_weights(torch.ones(3, dtype=torch.bool), torch.float32).tolist() == [1, 1, 1]


def test_pairs_that_do_not_count_change_neither_centering_nor_loss():
    cosines = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[9.0, 7.0], [3.0, -2.0]]])
    counted = torch.tensor([True, False])
    centered = center_correspondence(cosines, counted)
    torch.testing.assert_close(centered[:1], center_correspondence(cosines[:1]))
    codes = torch.tensor([[[0.5, 0.4], [0.3, -0.2]], [[0.9, 0.9], [0.9, 0.9]]], requires_grad=True)
    loss = correspondence_loss(centered, codes, 0.3, share_weights(counted, torch.float32))
    loss.backward()
    torch.testing.assert_close(loss, correspondence_loss(centered[:1], codes[:1], 0.3))
    assert torch.equal(codes.grad[1], torch.zeros(2, 2))


def test_where_no_pair_counts_the_loss_is_zero_and_pulls_at_nothing():
    counted = torch.tensor([False, False])
    codes = torch.full((2, 2, 2), 0.5, requires_grad=True)
    centered = center_correspondence(torch.ones(2, 2, 2), counted)
    loss = correspondence_loss(centered, codes, 0.3, share_weights(counted, torch.float32))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(codes.grad, torch.zeros(2, 2, 2))


def test_clustering_loss_is_the_negative_mean_cosine_to_the_nearest_centroid():
    codes = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    centroids = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    loss = clustering_loss(codes, centroids, 0.0)
    torch.testing.assert_close(loss, torch.tensor(-(1 + 1 + math.sqrt(0.5)) / 3))


def test_of_equal_centroids_the_first_takes_the_codes():
    codes = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    centroids = torch.tensor([[0.0, -1.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    clustering_loss(codes, centroids, 0.0).backward()
    # Only the first code has its largest cosine, 0.6, twice; the second has 0 with both.
    torch.testing.assert_close(centroids.grad, torch.tensor([[0.0, 0.0], [0.0, -0.9], [0.0, 0.0]]))


def two_directions(seeded):
    """Codes along two directions, and two equal centroids between them."""
    directions = torch.tensor([[1.0, 0.2, 0.0], [0.2, 1.0, 0.0]]).repeat_interleave(30, dim=0)
    codes = directions + 0.05 * torch.randn(60, 3, generator=seeded(0))
    return codes, torch.tensor([[1.0, 1.0, 0.3]]).repeat(2, 1)


def move(loss, codes, centroids):
    """Train centroids alone; of the last client where there are several."""
    moved = centroids.clone().requires_grad_(True)
    optimizer = Adam([moved], 5e-3, fused=False)
    for _ in range(400):
        loss(codes, moved, 0.0).sum().backward()
        optimizer.step()
    return moved.detach().reshape(-1, 2, 3)[-1]


def test_equal_centroids_separate_and_share_the_codes(seeded):
    codes, centroids = two_directions(seeded)
    moved = move(clustering_loss, codes, centroids)
    assert float(cosine_similarity(moved[0], moved[1], dim=0)) < 0.5
    nearest = (codes @ normalize(moved, dim=1).T).argmax(dim=1)
    assert nearest.unique_consecutive().tolist() in ([0, 1], [1, 0])


def test_equal_centroids_of_stacked_clients_separate_alike(seeded):
    codes, centroids = two_directions(seeded)
    stacked = torch.func.vmap(clustering_loss, in_dims=(0, 0, None))
    moved = move(stacked, codes.repeat(3, 1, 1), centroids.repeat(3, 1, 1))
    torch.testing.assert_close(moved, move(clustering_loss, codes, centroids))


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
