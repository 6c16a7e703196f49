import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch.nn.functional import normalize

from fusseg.federation.lloyd_steps import CodeSums, move_centroids, sum_codes
from fusseg.federation.moments import (
    FeatureMoments,
    pca_head,
    principal_components,
    starting_centroids,
    sum_moments,
    whiten,
)
from fusseg.federation.summation import RunningSum
from fusseg.segmentation.head import build_head, initial_head


def pooled_step(codes, centroids):
    """One step of spherical k-means on pooled codes, cluster by cluster."""
    nearest = (codes @ normalize(centroids, dim=1).T).argmax(dim=1)
    moved = []
    for cluster, centroid in enumerate(centroids):
        members = codes[nearest == cluster].double()
        moved.append(normalize(members.sum(dim=0) if len(members) else centroid.double(), dim=0))
    return torch.stack(moved).float()


def split(rows, cuts):
    """Cut rows into parts, none of them empty."""
    places = sorted({1 + cut % (len(rows) - 1) for cut in cuts})
    return list(torch.tensor_split(rows, places))


def add(parts):
    """What the server does with sums of clients."""
    total = RunningSum(vars(parts[0]))
    for part in parts:
        total.add(vars(part))
    return total.total()


@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(0, 1000), max_size=5))
def test_federated_lloyd_equals_pooled_spherical_k_means_step_by_step(seed, cuts, seeded):
    generator = seeded(seed)
    codes = normalize(torch.randn(60, 4, generator=generator), dim=1)
    federated = pooled = torch.randn(5, 4, generator=generator)
    for _ in range(6):
        parts = [sum_codes([part], federated) for part in split(codes, cuts)]
        federated = move_centroids(federated, CodeSums(**add(parts)))
        pooled = pooled_step(codes, pooled)
        assert torch.allclose(federated, pooled, atol=1e-6)


@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, 1000), max_size=5),
    components=st.integers(1, 6),
)
def test_federated_pca_equals_pooled_pca(seed, cuts, components, seeded):
    generator = seeded(seed)
    scales = torch.tensor([9.0, 7.0, 5.0, 3.0, 2.0, 1.0])
    features = torch.randn(80, 6, generator=generator) * scales + 3
    moments = FeatureMoments(**add([sum_moments([part], 6) for part in split(features, cuts)]))
    directions, variances, mean = principal_components(moments, components)
    pooled = PCA(components, svd_solver="full").fit(features.double().numpy())
    assert np.allclose(mean, pooled.mean_, atol=1e-5)
    assert np.allclose(variances * 80 / 79, pooled.explained_variance_, rtol=1e-4)
    aligned = np.abs(np.sum(directions.numpy() * pooled.components_, axis=1))
    assert np.allclose(aligned, 1, atol=1e-4)
    head = pca_head(directions, mean, initial_head(6, components, generator))
    codes = build_head(head)(features).detach().numpy()
    expected = pooled.transform(features.double().numpy())
    assert np.allclose(np.abs(codes), np.abs(expected), atol=1e-2)


@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, 1000), max_size=5),
    rank=st.integers(1, 6),
)
def test_whitened_codes_have_unit_variance_as_far_as_features_vary(seed, cuts, rank, seeded):
    generator = seeded(seed)
    scales = torch.tensor([9.0, 7.0, 5.0, 3.0, 2.0, 1.0])[:rank]
    mix = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q[:rank]
    features = (torch.randn(80, rank, generator=generator) * scales) @ mix + 3
    moments = FeatureMoments(**add([sum_moments([part], 6) for part in split(features, cuts)]))
    directions, variances, mean = principal_components(moments, 6)
    whitened, left = whiten(directions, variances, 1.0)
    assert torch.allclose(left, (torch.arange(6) < rank).double())
    head = pca_head(whitened, mean, initial_head(6, 6, generator))
    codes = build_head(head)(features).detach().double()
    covariance = torch.cov(codes.T, correction=0)
    assert torch.allclose(covariance, left.diag(), atol=1e-3)
    pooled = PCA(rank, svd_solver="full", whiten=True).fit(features.double().numpy())
    expected = pooled.transform(features.double().numpy()) * (80 / 79) ** 0.5
    assert np.allclose(codes[:, :rank].abs().numpy(), np.abs(expected), atol=1e-2)


@given(seed=st.integers(0, 2**31), exponent=st.floats(0.1, 1))
def test_whitening_lies_between_the_variances_and_unit_variances(seed, exponent, seeded):
    drawn = torch.rand(5, generator=seeded(seed), dtype=torch.float64) + 1e-3
    variances = drawn.sort(descending=True).values
    whitened, left = whiten(torch.eye(5).double(), variances, exponent)
    assert torch.allclose(left, variances ** (1 - exponent))
    assert torch.allclose(whitened.diagonal() ** 2 * variances, left)


@given(seed=st.integers(0, 2**31))
def test_starting_centroids_lie_along_the_large_variances(seed, seeded):
    variances = torch.tensor([100.0, 100.0, 1e-6], dtype=torch.float64)
    found = starting_centroids(variances, 4, seeded(seed))
    assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-5)
    assert found[:, 2].abs().max() < 1e-2
    # four centers on a circle: no two on the same side
    cosines = found @ found.T - 2 * torch.eye(4)
    assert cosines.max() < 0.8
