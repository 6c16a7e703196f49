import pytest
import torch
from benchmarks.speed.products import (
    STEP_PRODUCTS,
    Product,
    count_gflop,
    head_products,
    prepare_products,
    product_rate,
    stego_products,
)
from torch.utils.flop_counter import FlopCounterMode

from fusseg.config.schema import LocalConfig
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.objectives import OBJECTIVES, settle_local
from fusseg.segmentation.training import Trainee, TrainingPlan, train

CPU = torch.device("cpu")


def test_a_product_is_a_multiplication_and_an_addition_per_triple():
    assert Product(3, 5, 7, batch=2, times=4).gflop == pytest.approx(2e-9 * 3 * 5 * 7 * 2 * 4)


def test_the_products_of_a_step_are_those_of_its_formula():
    local = settle_local(LocalConfig(), 27)
    dim, code, clusters, rows = 768, 70, 27, 2 * 8 * 121
    head = 2 * rows * (2 * dim * dim + 5 * dim * code)
    pairs = 7 * 8 * 121 * 121 * 2 * (dim + 3 * code)
    centroids = 2 * 2 * rows * code * clusters
    expected = (head + pairs + centroids) / 1e9
    assert count_gflop(stego_products(dim, code, clusters, local)) == pytest.approx(expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_multiplies_what_is_counted(name, random_features, seeded, tmp_path):
    table = {"positions": 7, **({"random_supports": 3} if name == "stego" else {})}
    local = settle_local(LocalConfig(objective=name, batch_size=2, tables={name: table}), 3)
    features, mean = random_features(0), torch.zeros(5)
    model = Model(initial_head(5, 4, seeded(0)), torch.randn(3, 4, generator=seeded(1)))
    agreed = local.objective.estimate(features, mean, local, seeded(2))
    prepared = local.objective.prepare(features, mean, local.settings, tmp_path)
    for image in range(len(features)):
        local.objective.prepare_image and local.objective.prepare_image(prepared, image)
    with FlopCounterMode(display=False) as counter:
        trainee = Trainee(model, features, prepared, seeded(3))
        train(trainee, TrainingPlan(2, mean, agreed), local)
    counted = count_gflop(STEP_PRODUCTS[name](5, 4, 3, local))
    assert counter.get_total_flops() / 1e9 == pytest.approx(2 * counted)


def test_every_objective_is_measured():
    assert STEP_PRODUCTS.keys() == OBJECTIVES.keys()


def test_the_head_multiplies_each_position_by_three_layers():
    assert count_gflop(head_products(10, 4, 2)) == pytest.approx(2e-9 * 10 * (16 + 8 + 8))


def test_a_floor_does_the_arithmetic_that_was_counted():
    tables = {"stego": {"positions": 7, "random_supports": 3}}
    local = settle_local(LocalConfig(batch_size=2, tables=tables), 3)
    products = stego_products(16, 5, 3, local)
    multiply = prepare_products(products, torch.float32, CPU, calls=2)
    with FlopCounterMode(display=False) as counter:
        multiply()
    assert counter.get_total_flops() / 1e9 == pytest.approx(2 * count_gflop(products))


def test_the_rate_of_the_reference_product_is_one_that_a_machine_can_have():
    assert 0.1 < product_rate(torch.float32, CPU, repeats=1) < 1e6
