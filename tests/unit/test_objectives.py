import json
import re
from dataclasses import dataclass, replace

import pytest
import torch

from fusseg.config.compute import Compute
from fusseg.config.schema import Config, LocalConfig
from fusseg.core.errors import ConfigError
from fusseg.core.randomness import round_generator
from fusseg.federation.answer import answer
from fusseg.federation.points import KeptCodes
from fusseg.federation.state import Client, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.runs.record import describe_settings
from fusseg.segmentation.head import initial_head, project
from fusseg.segmentation.objective import Carry, Draw, Losses, Model, Objective
from fusseg.segmentation.objectives import OBJECTIVES, settle_local, spell_out
from fusseg.segmentation.objectives.stego import OBJECTIVE as STEGO
from fusseg.segmentation.objectives.stego import StegoSettings
from fusseg.segmentation.sampling import query_batches
from fusseg.segmentation.training import (
    Trainee,
    TrainingPlan,
    clients_that_fit,
    train,
    train_together,
)

MEAN = torch.full((5,), 0.25)
RATE = 0.05
TEACHER = {"positions": 7, "hold": 3.0, "keep": 0.75}


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    positions: int = 4
    hold: float = 1.0
    keep: float = 0.9


def draw_batches(num_images, map_shape, _prepared, local, generator):
    for images in query_batches(num_images, local.batch_size, generator):
        shape = (len(images), local.settings.positions)
        positions = torch.randint(map_shape[0] * map_shape[1], shape, generator=generator)
        yield Draw(images, positions, {})


def pull(weights, centroids, step, _agreed, settings, _precision):
    """Draw all centroids to the mean code, and hold them near the teacher; the head stays."""
    codes = project(weights, step.features)
    to_codes = (centroids - codes.detach().mean(dim=(0, 1))).square().sum()
    to_teacher = (centroids - step.carried["teacher"]).square().sum()
    return Losses(0 * codes.sum(), to_codes + settings.hold * to_teacher, step.features, codes)


def begin(model, kept, _settings):
    return {"teacher": kept.get("teacher", model.centroids)}


def follow(carried, _weights, centroids, settings):
    return {"teacher": settings.keep * carried["teacher"] + (1 - settings.keep) * centroids}


@pytest.fixture
def teacher(monkeypatch):
    """The table of objectives with one that carries a teacher from step to step."""
    objective = Objective(TeacherSettings, draw_batches, pull, carry=Carry(begin, follow))
    monkeypatch.setitem(OBJECTIVES, "teacher", objective)
    return objective


def teacher_config(**stego):
    return LocalConfig(
        objective="teacher",
        steps=6,
        batch_size=3,
        centroid_learning_rate=RATE,
        tables={"teacher": TEACHER, **stego},
    )


@pytest.fixture
def local(teacher):
    return settle_local(teacher_config(), num_clusters=2)


def make_model(seeded, seed):
    return Model(initial_head(5, 3, seeded(seed)), torch.randn(2, 3, generator=seeded(seed + 1)))


def make_plan(num_steps=6):
    return TrainingPlan(num_steps, MEAN, {})


def slow_round(model, teacher, features, generator, num_steps=6):
    """Centroids and teacher after a round: gradients and Adam by hand, number by number."""
    batches = query_batches(len(features), 3, generator)
    centroids, kept = model.centroids.double().tolist(), teacher.double().tolist()
    first, second = ([[0.0] * 3 for _ in range(2)] for _ in range(2))
    for number in range(1, num_steps + 1):
        images = next(batches)
        positions = torch.randint(12, (3, 7), generator=generator)
        codes = project(model.head, features.gather(images, positions) - MEAN)
        mean = codes.double().mean(dim=(0, 1)).tolist()
        for k in range(2):
            for d in range(3):
                own = centroids[k][d]
                gradient = 2 * (own - mean[d]) + 3.0 * 2 * (own - kept[k][d])
                first[k][d] = 0.9 * first[k][d] + 0.1 * gradient
                second[k][d] = 0.999 * second[k][d] + 0.001 * gradient**2
                down = (second[k][d] / (1 - 0.999**number)) ** 0.5 + 1e-8
                centroids[k][d] = own - RATE * first[k][d] / (1 - 0.9**number) / down
                kept[k][d] = 0.75 * kept[k][d] + 0.25 * centroids[k][d]
    return torch.tensor(centroids), torch.tensor(kept)


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def refused(local, *fragments):
    with pytest.raises(ConfigError) as caught:
        settle_local(local, num_clusters=2)
    assert all(fragment in str(caught.value) for fragment in fragments)


def test_an_unknown_objective_is_refused_with_the_nearest_name():
    refused(LocalConfig(objective="stegoo"), "local.objective", "'stegoo'", "'stego'?")


def test_a_table_of_no_objective_is_refused():
    refused(LocalConfig(tables={"setgo": {"positions": 9}}), "[local.setgo]", "'stego'?")


def test_an_unknown_key_of_an_objective_is_refused():
    tables = {"stego": {"position": 9}}
    refused(LocalConfig(tables=tables), "'local.stego.position'", "'local.stego.positions'?")


def test_a_value_of_the_wrong_type_is_refused_by_its_dotted_key():
    refused(LocalConfig(tables={"stego": {"positions": 9.5}}), "local.stego.positions", "9.5")


def test_a_value_out_of_range_is_refused_by_its_dotted_key():
    refused(LocalConfig(tables={"stego": {"dropout": 1.0}}), "local.stego.dropout", "1.0")


def test_a_table_of_no_objective_cannot_be_written_out():
    config = Config(local=LocalConfig(tables={"setgo": {}}))
    with pytest.raises(ConfigError, match=re.escape("[local.setgo]")):
        spell_out(config)


def test_settings_are_those_of_the_chosen_objective(teacher):
    tables = {"stego": {"positions": 9}}
    found = settle_local(teacher_config(**tables), num_clusters=2)
    assert found.objective is teacher
    assert found.settings == TeacherSettings(positions=7, hold=3.0, keep=0.75)
    other = settle_local(LocalConfig(tables={"teacher": TEACHER, **tables}), num_clusters=2)
    assert other.objective is STEGO
    assert other.settings.positions == 9


def test_every_key_of_an_own_objective_is_written_out(teacher):
    tables = {"teacher": {"keep": 0.5}}
    config = spell_out(Config(local=LocalConfig(objective="teacher", tables=tables)))
    assert config.local.tables == {"teacher": {"positions": 4, "hold": 1.0, "keep": 0.5}}


def test_what_is_carried_equals_the_loop(local, random_features, seeded):
    features, model = random_features(0), make_model(seeded, 1)
    found = train(Trainee(model, features, None, seeded(0)), make_plan(), local)
    centroids, kept = slow_round(model, model.centroids, features, seeded(0))
    near(found.model.centroids, centroids)
    near(found.carried["teacher"], kept)
    # The teacher lags behind, and all of it moved far more than the tolerance.
    assert float((kept - centroids).abs().min()) > 1e-3
    assert float((kept - model.centroids).abs().min()) > 1e-3


def test_what_is_carried_is_handed_back_in_the_next_round(local, random_features, seeded):
    features, model, averaged = random_features(0), make_model(seeded, 1), make_model(seeded, 5)
    first = train(Trainee(model, features, None, seeded(0)), make_plan(), local)
    start = Trainee(averaged, features, None, seeded(3), carried=first.carried)
    second = train(start, make_plan(), local)
    _, kept = slow_round(model, model.centroids, features, seeded(0))
    centroids, kept = slow_round(averaged, kept, features, seeded(3))
    near(second.model.centroids, centroids)
    near(second.carried["teacher"], kept)
    afresh = train(replace(start, carried={}), make_plan(), local)
    assert not torch.allclose(afresh.carried["teacher"], kept, atol=1e-2)


def test_a_client_keeps_what_is_carried_for_its_next_answer(
    teacher, random_features, seeded, tmp_path
):
    protocol = resolve(Config(seed=4, local=teacher_config()))
    features, sent = random_features(0), [make_model(seeded, 1), make_model(seeded, 5)]
    client, codes = Client("a", features, tmp_path), KeptCodes(0, 4)
    memory, kept = None, sent[0].centroids
    for number, model in enumerate(sent):
        state, (task, *_) = GlobalState(number, model, make_plan()), protocol.tasks(number + 1)
        given = answer(state, task, memory, client, protocol, codes)
        rng = round_generator(4, number + 1, "a")
        centroids, kept = slow_round(model, kept, features, rng)
        memory = given.memory
        near(memory.model.centroids, centroids)
        near(memory.carried["teacher"], kept)
        assert "teacher" not in given.update.parts


def test_what_clients_carry_side_by_side_is_as_if_each_were_alone(local, random_features, seeded):
    def make():
        # One client in its first round beside one that kept something of another.
        carried = ({}, {"teacher": torch.randn(2, 3, generator=seeded(9))})
        return [
            Trainee(
                make_model(seeded, 10 * client),
                random_features(client, num_images=images),
                None,
                seeded(client),
                carried=carried[client],
            )
            for client, images in enumerate((2, 7))
        ]

    together = train_together(make(), make_plan(), local)
    alone = [train(trainee, make_plan(), local) for trainee in make()]
    for found, expected in zip(together, alone, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-4)
        near(found.model.centroids, expected.model.centroids)
        near(found.carried["teacher"], expected.carried["teacher"])
        assert not found.carried["teacher"].requires_grad
    assert not torch.allclose(alone[0].carried["teacher"], alone[1].carried["teacher"], atol=1e-2)


def begin_two_back(model, _kept, _settings):
    return {"teacher": model.centroids, "last": model.centroids}


def follow_two_back(carried, _weights, centroids, _settings):
    return {"teacher": carried["last"], "last": centroids}


def follow_with_copies(carried, weights, centroids, settings):
    followed = follow_two_back(carried, weights, centroids, settings)
    return {name: tensor.detach().clone() for name, tensor in followed.items()}


@pytest.mark.parametrize("num_clients", [1, 2])
def test_centroids_carried_as_they_are_do_not_move_with_the_next_step(
    num_clients, local, random_features, seeded
):
    def run(follow_step):
        objective = replace(local.objective, carry=Carry(begin_two_back, follow_step))
        trainees = [
            Trainee(make_model(seeded, 10 * client), random_features(client), None, seeded(client))
            for client in range(num_clients)
        ]
        return train_together(trainees, make_plan(), replace(local, objective=objective))

    for found, expected in zip(run(follow_two_back), run(follow_with_copies), strict=True):
        assert torch.equal(found.model.centroids, expected.model.centroids)
        assert torch.equal(found.carried["teacher"], expected.carried["teacher"])
        assert not found.carried["last"].requires_grad
        assert not torch.equal(found.carried["teacher"], found.carried["last"])


def test_an_objective_of_unknown_memory_trains_one_client_at_a_time(local):
    assert clients_that_fit(5, local, Compute(torch.device("cuda"), torch.float32)) == 1


def test_estimated_shifts_are_averaged_by_the_images_that_count():
    names = ("shift_self", "shift_neighbor", "shift_random")
    of_one = dict(zip(names, (0.1, 0.2, -0.4), strict=True))
    of_other = dict(zip(names, (0.5, 0.6, 0.8), strict=True))
    found = STEGO.combine([of_one, of_other], [3, 1])
    assert found == pytest.approx(dict(zip(names, (0.2, 0.3, -0.1), strict=True)))


def test_shifts_are_given_or_estimated():
    given, auto = StegoSettings(shift=(0.1, 0.2, 0.3)), StegoSettings()
    assert STEGO.given(given) == {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}
    assert STEGO.estimated(given) == {}
    assert STEGO.given(auto) == {}
    # Two cosines between -1 and 1 and a difference of means of such.
    assert STEGO.estimated(auto) == dict.fromkeys(STEGO.given(given), (-2.0, 2.0))


def test_given_shifts_need_no_estimate(random_features, seeded):
    tables = {"stego": {"shift": [0.1, 0.2, 0.3]}}
    local = settle_local(LocalConfig(tables=tables), num_clusters=2)
    assert STEGO.estimate(random_features(0), MEAN, local, seeded(0)) == {}


def test_settings_are_kept_as_they_come_back_from_json():
    tables = {"mine": {"bands": ((1, 2), (3, 4))}}
    kept = describe_settings(Config(local=LocalConfig(tables=tables)))
    assert kept["local.mine.bands"] == [[1, 2], [3, 4]]
    assert json.loads(json.dumps(kept)) == kept
