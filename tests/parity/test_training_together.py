"""Clients advanced in one batched step against the same clients trained one by one."""

from dataclasses import replace

import pytest
import torch

from fusseg.config.compute import EXACT, Compute
from fusseg.config.schema import LocalConfig
from fusseg.features.neighbors import nearest_neighbors
from fusseg.features.resident import make_resident
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.objectives.contrastive import NEGATIVE, POSITIVE
from fusseg.segmentation.objectives.stego import SHIFTS
from fusseg.segmentation.training import Trainee, TrainingPlan, train, train_together

AGREED = dict(zip(SHIFTS, (0.4, 0.2, 0.3), strict=True)) | {POSITIVE: 0.5, NEGATIVE: 0.0}
PLAN = TrainingPlan(4, torch.full((5,), 0.25), AGREED)
BFLOAT16 = Compute(torch.device("cpu"), torch.bfloat16)


def settle(stego=None, **more):
    tables = {"stego": {"positions": 9, "random_supports": 2, **(stego or {})}}
    return settle_local(LocalConfig(batch_size=4, tables=tables, **more), num_clusters=4)


@pytest.fixture
def make_trainees(random_features, seeded):
    """Clients of different sizes, one of them smaller than a batch, with models of their own."""

    def make(*, previous: bool, resident: bool = False):
        trainees = []
        for client, num_images in enumerate((6, 3, 9)):
            features = random_features(client, num_images=num_images)
            model = Model(
                initial_head(5, 3, seeded(10 + client)),
                torch.randn(4, 3, generator=seeded(20 + client)),
            )
            nearest = nearest_neighbors(torch.from_numpy(features.pooled), 2)
            own = initial_head(5, 3, seeded(30 + client)) if previous else None
            source = make_resident(features, EXACT) if resident else features
            trainees.append(Trainee(model, source, nearest, seeded(client), own))
        return trainees

    return make


def prepare_for(local, trainees, cache):
    """The same clients with what another objective prepares."""
    mean = PLAN.mean_feature
    return [
        replace(one, prepared=local.objective.prepare(one.features, mean, local.settings, cache))
        for one in trainees
    ]


def tensors(model):
    return [*model.head.values(), model.centroids]


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stego": {"separation_weight": 0.5, "dropout": 0.0}},
        {"fedprox_weight": 0.1, "fedmoon_weight": 1.0},
    ],
)
def test_clients_side_by_side_train_as_if_each_were_alone(make_trainees, more, previous, resident):
    local = settle(**more)
    together = train_together(make_trainees(previous=previous, resident=resident), PLAN, local)
    alone = [train(trainee, PLAN, local) for trainee in make_trainees(previous=previous)]
    for found, expected in zip(together, alone, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-6)
        for left, right in zip(tensors(found.model), tensors(expected.model), strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
            assert left.is_contiguous()
    moved = [
        float((left - right).abs().max())
        for found, trainee in zip(together, make_trainees(previous=previous), strict=True)
        for left, right in zip(tensors(found.model), tensors(trainee.model), strict=True)
    ]
    assert min(moved) > 1e-4  # what agrees above has been trained


OTHERS = [
    ("contrastive", {"positions": 9}),
    (
        "contrastive",
        {"positions": 9, "positives": "nearest", "negatives": "random", "similarity": "dot"},
    ),
    ("smooseg", {"positions": 9, "momentum": 0.5}),
    ("primaps", {"positions": 9}),
]
"""Objectives besides STEGO's, and their settings."""


@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize(("name", "table"), OTHERS)
def test_every_objective_trains_clients_side_by_side(
    make_trainees, name, table, previous, tmp_path
):
    config = LocalConfig(objective=name, batch_size=4, tables={name: table})
    local = settle_local(config, num_clusters=4)
    trains_head = local.objective.trains_head
    if trains_head:
        local = replace(local, fedprox_weight=0.1, fedmoon_weight=1.0)

    def trainees():
        return prepare_for(local, make_trainees(previous=previous), tmp_path)

    together = train_together(trainees(), PLAN, local)
    alone = [train(trainee, PLAN, local) for trainee in trainees()]
    for found, expected in zip(together, alone, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-6)
        assert found.carried.keys() == expected.carried.keys()
        pairs = zip(tensors(found.model), tensors(expected.model), strict=True)
        carried = [(found.carried[key], kept) for key, kept in expected.carried.items()]
        for left, right in [*pairs, *carried]:
            torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
    for found, trainee in zip(together, trainees(), strict=True):
        parts = zip(tensors(found.model), tensors(trainee.model), strict=True)
        *head, centroids = [float((left - right).abs().max()) for left, right in parts]
        # What agrees above has been trained.
        assert centroids > 1e-4
        assert min(head) > 1e-4 if trains_head else max(head) == 0


def test_a_clients_result_does_not_depend_on_who_trains_beside_it(make_trainees):
    local = settle()
    all_three = train_together(make_trainees(previous=False), PLAN, local)
    two = train_together(make_trainees(previous=False)[:2], PLAN, local)
    for found, expected in zip(two, all_three[:2], strict=True):
        for left, right in zip(tensors(found.model), tensors(expected.model), strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


def test_resident_features_give_the_bits_of_those_on_disk(make_trainees, same_bits):
    local = settle()
    on_disk = [train(trainee, PLAN, local) for trainee in make_trainees(previous=False)]
    resident = [
        train(trainee, PLAN, local) for trainee in make_trainees(previous=False, resident=True)
    ]
    for found, expected in zip(resident, on_disk, strict=True):
        assert same_bits(found.model, expected.model)
        assert found.loss == expected.loss


def test_bfloat16_steps_stay_near_those_in_float32(make_trainees):
    local = settle()
    exact = train_together(make_trainees(previous=False), PLAN, local)
    narrow = train_together(make_trainees(previous=False), PLAN, local, BFLOAT16)
    for found, expected in zip(narrow, exact, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=0.02)
        assert found.loss != expected.loss  # the products were rounded
        for left, right in zip(tensors(found.model), tensors(expected.model), strict=True):
            assert left.dtype == torch.float32
            # Adam moves by its rate whatever the gradient's size: only signs may differ.
            assert float((left - right).abs().max()) < 2 * PLAN.num_steps * 5e-3
