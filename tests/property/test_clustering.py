import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusseg.federation.clustering import kmeans, maximin

seeds = st.integers(0, 2**31)
pools = st.tuples(seeds, st.integers(2, 5), st.integers(1, 4))


def draw_pool(pool, seeded):
    seed, num_clusters, num_clients = pool
    points = torch.randn(num_clusters * num_clients, 6, generator=seeded(seed))
    return points, num_clusters


@pytest.mark.parametrize("cluster", [kmeans, maximin])
@given(pool=pools, seed=seeds, exponents=st.integers(0, 2**31))
def test_by_cosine_the_length_of_a_centroid_does_not_matter(cluster, pool, seed, exponents, seeded):
    points, num_clusters = draw_pool(pool, seeded)
    # Each row has its own scale, a power of two, so that the same bits are left after division.
    scale = 2.0 ** torch.randint(-8, 9, (len(points), 1), generator=seeded(exponents))
    found = cluster(points, num_clusters, "cosine", seeded(seed))
    assert torch.equal(found, cluster(scale * points, num_clusters, "cosine", seeded(seed)))


@pytest.mark.parametrize("cluster", [kmeans, maximin])
@given(pool=pools, seed=seeds)
def test_by_euclidean_distance_scaling_all_scales_the_result(cluster, pool, seed, seeded):
    points, num_clusters = draw_pool(pool, seeded)
    found = cluster(points, num_clusters, "euclidean", seeded(seed))
    scaled = cluster(8 * points, num_clusters, "euclidean", seeded(seed))
    assert torch.equal(8 * found, scaled)


@pytest.mark.parametrize("cluster", [kmeans, maximin])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@given(pool=pools, seed=seeds)
def test_the_result_depends_on_the_generator_alone(cluster, distance, pool, seed, seeded):
    points, num_clusters = draw_pool(pool, seeded)
    torch.manual_seed(seed)
    found = cluster(points, num_clusters, distance, seeded(seed))
    torch.manual_seed(seed + 1)
    assert torch.equal(found, cluster(points, num_clusters, distance, seeded(seed)))
    assert found.shape == (num_clusters, 6)
    assert found.dtype == torch.float32
    if distance == "cosine":
        torch.testing.assert_close(found.norm(dim=1), torch.ones(num_clusters))


@given(seed=seeds, num_clusters=st.integers(2, 6), copies=st.integers(1, 4))
def test_kmeans_of_copies_recovers_the_originals(seed, num_clusters, copies, seeded):
    basis = torch.eye(8)[torch.randperm(8, generator=seeded(seed))[:num_clusters]]
    centers = kmeans(basis.repeat(copies, 1), num_clusters, "cosine", seeded(seed))
    assert sorted(centers.tolist()) == sorted(basis.tolist())


@given(pool=pools, seed=seeds)
def test_maximin_picks_different_pooled_centroids(pool, seed, seeded):
    points, num_clusters = draw_pool(pool, seeded)
    picked = maximin(points, num_clusters, "euclidean", seeded(seed))
    pooled = {tuple(row) for row in points.tolist()}
    chosen = {tuple(row) for row in picked.tolist()}
    assert len(chosen) == num_clusters
    assert chosen <= pooled
