import torch

from fusseg.federation.strategies.consensus import consensus_centroids


def merge(centroids, counts, cosines, previous):
    return consensus_centroids(
        torch.tensor(centroids),
        torch.tensor(counts),
        torch.tensor(cosines, dtype=torch.float64),
        torch.tensor(previous),
        None,
    )


def test_weights_are_root_counts_times_cosines():
    # first cluster: weights 10 * 0.5 and 5 * 1 on x and y; the second stays where it is
    found = merge(
        [[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]],
        [[100, 1], [25, 1]],
        [[0.5, 1.0], [1.0, 1.0]],
        [[1.0, 1.0, 0.0], [0.0, 0.0, 9.0]],
    )
    half = 0.5**0.5
    assert torch.allclose(found, torch.tensor([[half, half, 0.0], [0.0, 0.0, 1.0]]))


def test_a_centroid_that_stands_for_almost_nothing_is_dropped():
    found = merge(
        [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]]],
        [[5000, 4999], [9995, 5]],
        [[0.9, 0.9], [0.9, 0.9]],
        [[1.0, 0.1], [0.0, 1.0]],
    )
    assert torch.allclose(found, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_a_centroid_that_points_away_from_its_codes_is_dropped():
    found = merge(
        [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]]],
        [[10, 10], [10, 10]],
        [[0.9, 0.9], [0.9, -0.1]],
        [[1.0, 0.0], [0.0, 1.0]],
    )
    assert torch.allclose(found, torch.eye(2))


def test_an_empty_pool_leaves_the_previous_directions():
    found = merge([[[1.0, 0.0], [0.0, 1.0]]], [[3, 3]], [[0.0, -1.0]], [[0.0, 2.0], [3.0, 0.0]])
    assert torch.allclose(found, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_fewer_kept_centroids_than_clusters_leave_the_rest_as_they_were(seeded):
    found = consensus_centroids(
        torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]),
        torch.tensor([[5, 0]]),
        torch.tensor([[0.5, 0.0]], dtype=torch.float64),
        torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        seeded(0),
    )
    assert torch.allclose(found[1], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(found.norm(dim=1), torch.ones(2))
