import pytest
import torch

from fusseg.segmentation.head import (
    SegmentationHead,
    apply_head,
    build_head,
    initial_head,
    linear_head,
    project,
    wake_hidden,
)


def test_head_of_the_paper_has_698252_parameters():
    head = SegmentationHead(feature_dim=768, code_dim=70)
    assert sum(weight.numel() for weight in head.parameters()) == 698_252


def test_code_is_the_sum_of_a_linear_and_a_two_layer_projection():
    head = build_head(
        {
            "linear.weight": torch.tensor([[1.0, 2.0]]),
            "linear.bias": torch.tensor([10.0]),
            "hidden.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
            "hidden.bias": torch.tensor([0.0, -1.0]),
            "output.weight": torch.tensor([[3.0, 5.0]]),
            "output.bias": torch.tensor([0.5]),
        }
    )
    # Linear: -1 + 2 * 4 + 10; hidden: relu(-1), relu(3); output: 15 + 0.5.
    code = head(torch.tensor([[-1.0, 4.0]]))
    torch.testing.assert_close(code, torch.tensor([[32.5]]))


def test_head_treats_every_position_alike_whatever_the_leading_shape(seeded):
    head = build_head(initial_head(4, 2, seeded(0)))
    features = torch.randn(2, 3, 5, 4, generator=seeded(1))
    code = head(features)
    torch.testing.assert_close(code.flatten(0, 2), head(features.flatten(0, 2)))


@pytest.mark.parametrize("output", ["zero", "of weights alone", "of a bias alone", "drawn"])
def test_a_hidden_layer_is_left_out_only_where_it_adds_nothing(output, seeded):
    weights = initial_head(4, 2, seeded(0))
    if output in ("zero", "of a bias alone"):
        weights["output.weight"] = torch.zeros_like(weights["output.weight"])
    if output in ("zero", "of weights alone"):
        weights["output.bias"] = torch.zeros_like(weights["output.bias"])
    head = build_head(weights)
    features = torch.randn(3, 5, 4, generator=seeded(1))
    codes = apply_head(head, features)
    assert torch.equal(codes, head(features))
    assert not codes.requires_grad
    # Weights of the hidden layer that are not finite show whether it was used.
    with torch.no_grad():
        head.hidden.weight.fill_(float("nan"))
    assert bool(apply_head(head, features).isfinite().all()) is (output == "zero")


@pytest.mark.parametrize(("feature_dim", "bound"), [(4, 0.5), (100, 0.1)])
def test_initial_weights_are_uniform_within_the_root_of_the_fan_in(feature_dim, bound, seeded):
    drawn = torch.cat([w.flatten() for w in initial_head(feature_dim, 40, seeded(0)).values()])
    assert float(drawn.abs().max()) <= bound
    assert float(drawn.abs().max()) > 0.95 * bound
    assert abs(float(drawn.mean())) < 0.1 * bound


def test_initial_weights_depend_on_the_generator_alone(seeded):
    torch.manual_seed(1)
    first = initial_head(4, 2, seeded(3))
    torch.manual_seed(2)
    second = initial_head(4, 2, seeded(3))
    other = initial_head(4, 2, seeded(4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_building_a_head_copies_its_weights(seeded):
    weights = initial_head(4, 2, seeded(0))
    before = weights["linear.bias"].clone()
    head = build_head(weights)
    with torch.no_grad():
        head.linear.bias.add_(1)
    assert torch.equal(weights["linear.bias"], before)
    assert (head.feature_dim, head.code_dim) == (4, 2)


def test_a_hidden_layer_that_no_gradient_reaches_is_drawn(seeded):
    drawn = initial_head(4, 2, seeded(0))
    features = torch.randn(9, 4, generator=seeded(1))
    dead = linear_head(torch.ones(2, 4), torch.ones(2), drawn)
    dead |= {name: torch.zeros_like(dead[name]) for name in ("hidden.weight", "hidden.bias")}
    # Training on from such a head moves the output's bias, and nothing else of that branch.
    dead["output.bias"] = torch.tensor([0.5, -0.5])
    woken = wake_hidden(dead, drawn)
    assert torch.equal(woken["hidden.weight"], drawn["hidden.weight"])
    assert torch.equal(woken["hidden.bias"], drawn["hidden.bias"])
    assert torch.equal(project(woken, features), project(dead, features))


@pytest.mark.parametrize("name", ["hidden.weight", "hidden.bias", "output.weight"])
def test_a_hidden_layer_that_a_gradient_reaches_stays(name, seeded):
    weights = {key: torch.zeros_like(part) for key, part in initial_head(4, 2, seeded(0)).items()}
    weights[name] = torch.ones_like(weights[name])
    assert wake_hidden(weights, initial_head(4, 2, seeded(1))) is weights
