import pytest
import torch

from fusseg.anchors import features_anchor, pca_anchor
from fusseg.federation.client import Client
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
    model = features_anchor(clients, mean_feature, 2, seeded(0))
    maps, material = separable_maps(2)
    assert agrees(regions_of(model, mean_feature, maps[0]), material[0]) == 1


def test_the_head_of_frozen_features_is_the_identity(clients, seeded):
    model = features_anchor(clients, torch.zeros(8), 2, seeded(0))
    segmenter = build_segmenter(model, torch.zeros(8))
    features = torch.randn(3, 4, 8, generator=seeded(1))
    torch.testing.assert_close(encode(segmenter, features), features)


def test_principal_components_keep_the_direction_between_the_materials(
    clients, separable_maps, seeded
):
    mean_feature = torch.zeros(8)
    mean_feature[:2] = 0.5
    model = pca_anchor(clients, mean_feature, 2, 1, seeded(0))
    direction = model.head["linear.weight"]
    assert direction.shape == (1, 8)
    assert float(direction.norm()) == pytest.approx(1)
    # The materials lie along the first two axes, so that they differ along (1, -1).
    assert abs(float(direction[0, 0] - direction[0, 1])) == pytest.approx(2**0.5, abs=0.02)
    maps, material = separable_maps(2)
    assert agrees(regions_of(model, mean_feature, maps[0]), material[0]) == 1


def test_anchors_depend_on_the_seed_of_their_generator_alone(clients, seeded):
    left = features_anchor(clients, torch.zeros(8), 2, seeded(3))
    right = features_anchor(clients, torch.zeros(8), 2, seeded(3))
    assert torch.equal(left.centroids, right.centroids)
