import pytest
import torch
from torch.nn.functional import normalize

from fusseg.anchors import (
    RESTARTS,
    features_anchor,
    pca_anchor,
    sample_features,
    spherical_kmeans,
)
from fusseg.errors import FederationError
from fusseg.federation.client import Client
from fusseg.federation.clustering import kmeans
from fusseg.segmentation.segmenter import assign, build_segmenter, encode, similarities


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
