"""Training on sampled positions against whole maps through 1x1 convolutions, sampled afterwards."""

import pytest
import torch
from torch.nn.functional import conv2d, grid_sample, normalize

from fusseg.segmentation.head import build_head, initial_head
from fusseg.segmentation.objective import Step
from fusseg.segmentation.objectives.stego import SHIFTS, StegoSettings, step_losses
from fusseg.segmentation.sampling import derangement

HEIGHT, WIDTH, DIM, CODE, IMAGES, POSITIONS = 5, 7, 6, 3, 4, 11
SHIFT = (0.4, 0.1, 0.2)
STEGO = StegoSettings(dropout=0.3)


def project_maps(weights, maps):
    """The paper's head: 1x1 convolutions over whole maps of shape images, dim, height, width."""

    def convolve(name, values):
        return conv2d(values, weights[f"{name}.weight"][:, :, None, None], weights[f"{name}.bias"])

    return convolve("linear", maps) + convolve("output", convolve("hidden", maps).relu())


def gather_positions(maps, positions):
    """Values at flat integer positions: images, channels, positions."""
    return maps.flatten(2).gather(2, positions[:, None].expand(-1, maps.shape[1], -1))


def sample_bilinearly(maps, positions):
    """STEGO's form: coordinates in [-1, 1], corners aligned, at integer positions."""
    rows = (positions // WIDTH).double() / (HEIGHT - 1) * 2 - 1
    columns = (positions % WIDTH).double() / (WIDTH - 1) * 2 - 1
    grid = torch.stack([columns, rows], dim=2)[:, :, None]
    return grid_sample(maps, grid, padding_mode="border", align_corners=True).squeeze(3)


def map_loss(features, other_features, codes, other_codes, shift):
    """Equation 6 on sampled maps of shape images, channels, positions."""

    def correspond(left, right):
        return torch.einsum("ncp,ncq->npq", normalize(left, dim=1), normalize(right, dim=1))

    f = correspond(features, other_features)
    centered = f - f.mean(dim=2, keepdim=True)
    centered = centered - centered.mean() + f.mean()
    return -((centered - shift) * correspond(codes, other_codes).clamp(min=0)).mean()


def full_map_objective(weights, maps, positions, partners, mask, sample):
    codes = sample(project_maps(weights, maps * mask), positions)
    features = sample(maps, positions)
    query, neighbor = features.chunk(2)
    query_code, neighbor_code = codes.chunk(2)
    loss = STEGO.self_weight * map_loss(query, query, query_code, query_code, SHIFT[0])
    knn = map_loss(query, neighbor, query_code, neighbor_code, SHIFT[1])
    supports = [
        map_loss(query, query[order], query_code, query_code[order], SHIFT[2]) for order in partners
    ]
    return loss + STEGO.neighbor_weight * knn + STEGO.random_weight * sum(supports) / len(supports)


@pytest.mark.parametrize("sample", [gather_positions, sample_bilinearly])
@pytest.mark.parametrize("seed", range(2))
def test_sampled_positions_give_the_loss_and_gradients_of_whole_maps(sample, seed, seeded):
    generator = seeded(seed)
    maps = torch.randn(2 * IMAGES, DIM, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    positions = torch.randint(HEIGHT * WIDTH, (2 * IMAGES, POSITIONS), generator=generator)
    partners = torch.stack([derangement(IMAGES, generator) for _ in range(3)])
    start = {name: weight.double() for name, weight in initial_head(DIM, CODE, seeded(9)).items()}

    # The mask that the step draws: one per image and channel.
    kept = torch.rand(2 * IMAGES, 1, DIM, generator=seeded(5)) >= STEGO.dropout
    mask = kept.double().reshape(2 * IMAGES, DIM, 1, 1) / (1 - STEGO.dropout)
    weights = {name: weight.clone().requires_grad_(True) for name, weight in start.items()}
    expected = full_map_objective(weights, maps, positions, partners, mask, sample)
    expected.backward()

    head = build_head(start).double()
    head.load_state_dict(start)
    sampled = gather_positions(maps, positions).transpose(1, 2)
    trained, agreed = dict(head.named_parameters()), dict(zip(SHIFTS, SHIFT, strict=True))
    counted = torch.ones(partners.shape, dtype=torch.bool)
    step = Step(sampled, {"partners": partners, "counted": counted, "kept": kept}, {})
    centroids = torch.randn(2, CODE, generator=seeded(6), dtype=torch.float64)
    found = step_losses(trained, centroids, step, agreed, STEGO, torch.float64).head
    found.backward()

    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for name, weight in head.named_parameters():
        torch.testing.assert_close(weight.grad, weights[name].grad, rtol=1e-8, atol=1e-12)
        assert float(weight.grad.abs().max()) > 0
