import pytest
import torch

from fusseg.federation.moments import pca_head, principal_components, sum_moments, whiten
from fusseg.segmentation.head import initial_head, project


def test_moments_by_hand():
    chunks = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [-1.0, 1.0]])]
    found = sum_moments(chunks, 2)
    assert found.first.tolist() == [3.0, 3.0]
    assert found.second.tolist() == [[11.0, 1.0], [1.0, 5.0]]
    assert int(found.count) == 3


@pytest.mark.parametrize("chunks", [1, 7])
def test_small_variances_survive_a_large_mean(chunks, seeded):
    scales = torch.tensor([1e-2, 5e-3, 2e-3])
    features = 1e3 + scales * torch.randn(4000, 3, generator=seeded(0))
    found = sum_moments(features.tensor_split(chunks), 3)
    directions, variances, mean = principal_components(found, 3)
    exact = features.double()
    expected = torch.linalg.eigvalsh(torch.cov(exact.T, correction=0)).flip(0)
    torch.testing.assert_close(variances, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(mean, exact.mean(dim=0), rtol=1e-12, atol=0)
    assert directions.abs().argmax(dim=1).tolist() == [0, 1, 2]


def test_the_drawn_hidden_layer_changes_no_bit_of_a_code(seeded):
    """Before it is trained, a PCA head is what it would be without a second branch."""
    directions = torch.randn(3, 6, generator=seeded(0)).double()
    mean, drawn = torch.randn(6, generator=seeded(1)).double(), initial_head(6, 3, seeded(2))
    head = pca_head(directions, mean, drawn)
    assert torch.equal(head["hidden.weight"], drawn["hidden.weight"])
    assert torch.equal(head["hidden.bias"], drawn["hidden.bias"])
    largest = torch.full((1, 6), 65504.0)  # of float16, as features are kept
    features = torch.cat([torch.randn(50, 6, generator=seeded(3)), torch.zeros(1, 6), -largest])
    silent = head | {name: torch.zeros_like(head[name]) for name in head if "hidden" in name}
    codes = project(head, features)
    assert torch.equal(codes, project(silent, features))
    assert torch.equal(codes, features @ directions.T.float() - (directions @ mean).float())


def test_the_sign_of_a_direction_is_fixed():
    found = sum_moments([torch.tensor([[-3.0, -1.0], [3.0, 1.0]])], 2)
    directions, variances, mean = principal_components(found, 1)
    assert directions[0, 0] > 0
    assert variances.tolist() == pytest.approx([10.0])
    assert mean.tolist() == [0.0, 0.0]


def test_components_beyond_the_channels_are_zero():
    found = sum_moments([torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 1.0]])], 2)
    directions, variances, _ = principal_components(found, 4)
    assert directions.shape == (4, 2)
    assert variances.shape == (4,)
    assert directions[:2].abs().amax(dim=1).gt(0.5).all()
    assert not directions[2:].any()
    assert not variances[2:].any()


@pytest.mark.parametrize(
    ("exponent", "lengths", "expected"),
    [(0.0, [1, 1], [16, 4]), (0.5, [0.5, 0.5**0.5], [4, 2]), (1.0, [0.25, 0.5], [1, 1])],
)
def test_components_are_divided_by_a_power_of_their_standard_deviation(exponent, lengths, expected):
    """Standard deviations of 4 and 2."""
    directions, variances = torch.eye(2).double(), torch.tensor([16.0, 4.0]).double()
    whitened, left = whiten(directions, variances, exponent)
    assert torch.allclose(whitened, torch.tensor(lengths).double().diag())
    assert left.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("exponent", [0.01, 0.5, 1.0])
def test_components_that_hardly_vary_are_left_out_and_not_blown_up(exponent):
    directions, variances = torch.eye(4).double(), torch.tensor([2.0, 2e-5, 1e-6, 0.0]).double()
    whitened, left = whiten(directions, variances, exponent)
    assert whitened[:2].diagonal().gt(0).all()
    assert left[:2].gt(0).all()
    assert not whitened[2:].any()
    assert not left[2:].any()


def test_without_whitening_components_that_hardly_vary_stay_to_the_bit():
    directions, variances = torch.eye(3).double() / 3, torch.tensor([2.0, 1e-9, 0.0]).double()
    whitened, left = whiten(directions, variances, 0.0)
    assert torch.equal(whitened, directions)
    assert torch.equal(left, variances)


def test_features_that_are_all_equal_are_whitened_to_zero():
    found = sum_moments([torch.full((5, 3), 7.0)], 3)
    directions, variances, _ = principal_components(found, 2)
    whitened, left = whiten(directions, variances, 1.0)
    assert not whitened.any()
    assert not left.any()


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_the_rounding_of_features_of_low_rank_is_left_out(stored, seeded):
    """Four directions of 64 channels vary; rounding varies in all others."""
    latent, mix = torch.randn(3000, 4, generator=seeded(0)), torch.randn(4, 64, generator=seeded(1))
    features = (latent @ mix).to(stored).float()
    directions, variances, mean = principal_components(sum_moments(features.split(500), 64), 8)
    assert variances[4] > 0
    whitened, _ = whiten(directions, variances, 1.0)
    codes = (features.double() - mean) @ whitened.T
    assert torch.allclose(codes[:, :4].std(dim=0, correction=0), torch.ones(4).double(), atol=1e-4)
    assert not codes[:, 4:].any()
