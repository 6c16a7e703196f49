from functools import partial

import pytest
import torch
from torch.nn.functional import normalize

from fusseg.config.schema import LocalConfig
from fusseg.core.errors import FederationError
from fusseg.features.neighbors import nearest_neighbors
from fusseg.federation.baselines import (
    RESTARTS,
    features_anchor,
    pca_anchor,
    sample_features,
    spherical_kmeans,
)
from fusseg.federation.clustering import kmeans
from fusseg.federation.moments import principal_components, sum_moments
from fusseg.federation.state import Client
from fusseg.segmentation.assignment import assign, build_segmenter, encode, similarities
from fusseg.segmentation.head import project
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.training import Trainee, TrainingPlan, train

AGREED = {"shift_self": 0.4, "shift_neighbor": 0.2, "shift_random": 0.3}


@pytest.fixture
def clients(separable_maps, make_features, tmp_path):
    """Two clients whose features are two noisy materials along two axes."""
    found = []
    for seed in (0, 1):
        maps, _ = separable_maps(seed)
        found.append(Client(f"c{seed}", make_features(maps, name=f"c{seed}"), tmp_path))
    return found


def regions_of(model, mean_feature, features):
    segmenter = build_segmenter(model, mean_feature)
    return assign(similarities(segmenter, encode(segmenter, features)), features.shape[:2])


def agrees(regions, material):
    share = float((regions == material).float().mean())
    return max(share, 1 - share)


def test_frozen_features_cluster_into_the_two_materials(clients, separable_maps, seeded):
    mean_feature = torch.zeros(8)
    mean_feature[:2] = 0.5
    points = sample_features(clients, mean_feature, seeded(0))
    model = features_anchor(points, 2, seeded(0))
    maps, material = separable_maps(2)
    assert agrees(regions_of(model, mean_feature, maps[0]), material[0]) == 1


def test_the_head_of_frozen_features_is_the_identity(clients, seeded):
    points = sample_features(clients, torch.zeros(8), seeded(0))
    model = features_anchor(points, 2, seeded(0))
    segmenter = build_segmenter(model, torch.zeros(8))
    features = torch.randn(3, 4, 8, generator=seeded(1))
    torch.testing.assert_close(encode(segmenter, features), features)


def test_principal_components_keep_the_direction_between_the_materials(
    clients, separable_maps, seeded
):
    mean_feature = torch.zeros(8)
    mean_feature[:2] = 0.5
    points = sample_features(clients, mean_feature, seeded(0))
    model = pca_anchor(points, 2, 1, seeded(0))
    direction = model.head["linear.weight"]
    assert direction.shape == (1, 8)
    assert float(direction.norm()) == pytest.approx(1)
    # The materials lie along the first two axes, so that they differ along (1, -1).
    assert abs(float(direction[0, 0] - direction[0, 1])) == pytest.approx(2**0.5, abs=0.02)
    maps, material = separable_maps(2)
    assert agrees(regions_of(model, mean_feature, maps[0]), material[0]) == 1


def test_the_anchor_and_federated_pca_have_one_projection(seeded):
    """Around the mean, wherever the features lie."""
    scales = torch.tensor([1.0, 3.0, 0.3, 2.0, 0.1])
    points = 50 + scales * torch.randn(9000, 5, generator=seeded(0))
    head = pca_anchor(points, 3, 2, seeded(1)).head
    directions, _, mean = principal_components(sum_moments([points], 5), 2)
    torch.testing.assert_close(head["linear.weight"], directions.float())
    torch.testing.assert_close(head["linear.bias"], -(directions @ mean).float())
    codes = project(head, points)
    assert float(codes.mean(dim=0).abs().max()) < 1e-3
    assert directions.abs().argmax(dim=1).tolist() == [1, 3]


def test_the_anchor_keeps_all_components_where_there_are_fewer(clients, seeded):
    points = sample_features(clients, torch.zeros(8), seeded(0))
    assert pca_anchor(points, 2, 70, seeded(0)).head["linear.weight"].shape == (8, 8)


@pytest.mark.parametrize("anchor", [features_anchor, partial(pca_anchor, code_dim=3)])
def test_an_anchor_can_be_trained_on(anchor, clients, seeded):
    points = sample_features(clients, torch.zeros(8), seeded(0))
    model = anchor(points, num_clusters=2, generator=seeded(0))
    nearest = nearest_neighbors(torch.from_numpy(clients[0].features.pooled), 2)
    plan = TrainingPlan(3, torch.zeros(8), AGREED)
    trainee = Trainee(model, clients[0].features, nearest, seeded(1))
    local = settle_local(LocalConfig(batch_size=2, tables={"stego": {"positions": 9}}), 2)
    head = train(trainee, plan, local).model.head
    assert all(not torch.equal(part, model.head[name]) for name, part in head.items())


def test_anchors_depend_on_the_seed_of_their_generator_alone(clients, seeded):
    points = sample_features(clients, torch.zeros(8), seeded(3))
    assert torch.equal(points, sample_features(clients, torch.zeros(8), seeded(3)))
    left, right = (features_anchor(points, 2, seeded(3)) for _ in range(2))
    assert torch.equal(left.centroids, right.centroids)


def mean_cosine(points, centers):
    return float((normalize(points, dim=1) @ centers.T).amax(dim=1).mean())


def test_many_points_cluster_as_well_as_by_k_means_of_all_of_them(seeded):
    means = 2 * torch.randn(12, 16, generator=seeded(0))
    labels = torch.randint(12, (6000,), generator=seeded(1))
    points = means[labels] + torch.randn(6000, 16, generator=seeded(2))
    found = spherical_kmeans(points, 8, seeded(3))
    expected = kmeans(points, 8, "cosine", seeded(3), RESTARTS)
    assert mean_cosine(points, found) >= mean_cosine(points, expected) - 1e-3
    torch.testing.assert_close(found.norm(dim=1), torch.ones(8))


def test_centers_are_a_fixed_point_of_lloyd_over_all_points(seeded):
    points = torch.randn(5000, 6, generator=seeded(0))
    centers = spherical_kmeans(points, 5, seeded(1))
    units = normalize(points.double(), dim=1)
    nearest = (units @ centers.double().T).argmax(dim=1)
    means = torch.stack([units[nearest == cluster].sum(dim=0) for cluster in range(5)])
    torch.testing.assert_close(normalize(means, dim=1).float(), centers, atol=1e-4, rtol=0)


def test_more_clusters_than_points_are_refused(seeded):
    with pytest.raises(FederationError, match="cannot pick 3 centroids out of 2"):
        spherical_kmeans(torch.eye(2), 3, seeded(0))
