import math

import pytest
import torch

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import ConfigError
from fusseg.federation.preparation import prepare_images
from fusseg.federation.protocol import sent_parts
from fusseg.federation.state import Client, ClientUpdate, GlobalState
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import Traffic, bytes_up, make_delivery
from fusseg.segmentation.assignment import match_rows
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.objectives.primaps import (
    OBJECTIVE,
    PrimapsSettings,
    mask_labels,
    mask_loss,
)
from fusseg.segmentation.teacher import begin_teacher, follow_teacher
from fusseg.segmentation.training import Trainee, TrainingPlan, train


def settle(objective="primaps", local=None, **federation):
    config = Config(
        model=ModelConfig(num_clusters=27, code_dim=70),
        local=LocalConfig(objective=objective, steps=3, batch_size=2, **(local or {})),
        federation=FederationConfig(**federation),
    )
    return resolve(config)


def refused(*fragments, **settings):
    with pytest.raises(ConfigError) as caught:
        settle(**settings)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


def model_of(seeded, dim, clusters=27, code=70):
    centroids = torch.randn(clusters, code, generator=seeded(1))
    return Model(initial_head(dim, code, seeded(0)), centroids)


def test_the_lowest_of_equally_frequent_clusters_is_the_label():
    clusters, masks = torch.tensor([[2, 1, 0, 0, 2]]), torch.tensor([[0, 0, 1, 1, 1]])
    assert mask_labels(clusters, masks, 3).tolist() == [[1, 1, 0, 0, 0]]


def test_masks_of_equal_number_in_two_images_are_two_masks():
    clusters, masks = torch.tensor([[0, 0, 1], [1, 1, 1]]), torch.zeros(2, 3, dtype=torch.uint8)
    assert mask_labels(clusters, masks, 2).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_the_loss_by_hand():
    # Probabilities (0.8, 0.2) and (0.6, 0.4), so 0.7 and 0.3 on average.
    cosines = torch.tensor([[math.log(8.0), math.log(2.0)], [math.log(6.0), math.log(4.0)]])
    labels, counted = torch.tensor([0, 1]), torch.tensor([True, True])
    found = mask_loss(cosines, labels, counted, temperature=1.0, focus=2.0)
    expected = -(0.3**2 * math.log(0.8) + 0.7**2 * math.log(0.4)) / 2
    assert found.item() == pytest.approx(expected, abs=1e-6)
    found = mask_loss(cosines, labels, torch.tensor([True, False]), temperature=1.0, focus=2.0)
    assert found.item() == pytest.approx(-(0.3**2) * math.log(0.8), abs=1e-6)


def test_without_masks_there_is_no_loss():
    cosines = torch.ones(2, 3, requires_grad=True)
    labels, nothing = torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.bool)
    loss = mask_loss(cosines, labels, nothing, temperature=0.1, focus=2.0)
    loss.backward()
    assert loss.item() == 0
    assert not cosines.grad.any()


def test_training_moves_every_centroid_and_no_bit_of_the_head(random_features, seeded, tmp_path):
    protocol, features = settle(), random_features(0)
    model = model_of(seeded, 5, clusters=3, code=4)
    prepared = OBJECTIVE.prepare(features, torch.zeros(5), protocol.local.settings, tmp_path)
    plan = TrainingPlan(3, torch.zeros(5), {})
    trained = train(Trainee(model, features, prepared, seeded(2)), plan, protocol.local)
    assert all(torch.equal(trained.model.head[name], old) for name, old in model.head.items())
    assert float((trained.model.centroids - model.centroids).abs().max()) > 0.01
    assert trained.loss > 0


def test_masks_are_around_the_clients_own_mean_or_around_zero(random_features, tmp_path):
    features, settings = random_features(0), PrimapsSettings()
    own = torch.from_numpy(features.pooled.mean(axis=0))
    centered = OBJECTIVE.prepare(features, torch.full((5,), 9.0), settings, tmp_path)
    torch.testing.assert_close(centered.mean_feature, own)
    plain = OBJECTIVE.prepare(features, torch.zeros(5), settings, tmp_path)
    assert not plain.mean_feature.any()


@pytest.mark.parametrize("center", [False, True])
def test_all_images_are_prepared_before_round_1(random_features, tmp_path, center):
    clients = [
        Client(name, random_features(seed, num_images=images), tmp_path)
        for seed, (name, images) in enumerate((("a", 2), ("b", 3)))
    ]
    protocol = settle()
    progress = list(prepare_images(clients, protocol, center=center))
    assert [(one.stage, one.done, one.total) for one in progress] == [
        ("prepare", done, 5) for done in range(1, 6)
    ]
    files = set((tmp_path / "masks").glob("*/*.u8"))
    assert len(files) == 5
    # A round finds all of them, whatever the federation's mean feature is.
    for client in clients:
        mean, settings = torch.full((5,), 0.7 * center), protocol.local.settings
        prepared = OBJECTIVE.prepare(client.features, mean, settings, tmp_path)
        for image in range(len(client.features)):
            OBJECTIVE.prepare_image(prepared, image)
    assert set((tmp_path / "masks").glob("*/*.u8")) == files


def test_objectives_that_prepare_no_image_have_no_such_stage(random_features, tmp_path):
    client = Client("a", random_features(0), tmp_path)
    assert list(prepare_images([client], settle("stego"), center=True)) == []
    pca = settle(strategy="pca", lloyd_rounds=1)
    assert list(prepare_images([client], pca, center=True)) == []


def test_only_centroids_are_sent():
    state = GlobalState(0, Model({"w": torch.zeros(2)}, torch.zeros(3, 4)), plan_of(5))
    for strategy, names in (("fedcc-kmeans", ["centroids"]), ("fedavg", ["centroids"])):
        protocol = settle(strategy=strategy)
        assert list(sent_parts(protocol.tasks(1)[0], state, protocol)) == names


def plan_of(dim):
    shifts = dict.fromkeys(("shift_self", "shift_neighbor", "shift_random"), 0.1)
    return TrainingPlan(3, torch.zeros(dim), shifts)


def bytes_of_rounds(objective, seeded, wire):
    """Bytes of a client in each of two rounds, with the features of a ViT."""
    protocol, traffic, plan = settle(objective, wire=wire), Traffic(), plan_of(768)
    found, model = [], model_of(seeded, 768)
    for number in range(2):
        if protocol.averages_heads:
            model = Model({name: part + 1 for name, part in model.head.items()}, model.centroids)
        state, (task, *_) = GlobalState(number, model, plan), protocol.tasks(number + 1)
        delivery = make_delivery(state, task, protocol)
        traffic.send("a", delivery)
        traffic.arrived("a", delivery)
        parts = {
            name: torch.zeros(part.shape, dtype=part.dtype if wire == "float32" else torch.bfloat16)
            if part.narrow
            else torch.zeros(part.shape, dtype=part.dtype)
            for name, part in sent_parts(task, state, protocol).items()
        }
        traffic.receive("a", bytes_up(ClientUpdate("a", 2, 0.5, parts)))
        found.append(traffic.take()["a"])
    return found


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_a_round_sends_at_most_a_twentieth_of_stegos_bytes(wire, seeded):
    first, later = bytes_of_rounds("primaps", seeded, wire)
    centroids = 27 * 70 * 4
    assert later == {"bytes_up": centroids + 16, "bytes_down": centroids + 8}
    # The head comes once, and never goes back.
    head = 698_252 * (4 if wire == "float32" else 2)
    assert first["bytes_down"] > head
    assert first["bytes_up"] == later["bytes_up"]
    _, stego = bytes_of_rounds("stego", seeded, wire)
    assert stego["bytes_up"] == head + centroids + 16
    assert 20 * sum(later.values()) < sum(stego.values())


def test_what_needs_a_trained_head_is_refused():
    refused(
        "local.fedprox_weight is 0.1", "'primaps' trains no head", local={"fedprox_weight": 0.1}
    )
    refused("local.fedmoon_weight is 1", "set it to 0", local={"fedmoon_weight": 1.0})
    refused("federation.server_learning_rate is 0.5", "set it to 1", server_learning_rate=0.5)
    refused("federation.server_optimizer is 'momentum'", "'none'", server_optimizer="momentum")
    refused("'lloyd' takes only heads", "choose another strategy", strategy="lloyd")
    refused(
        "federation.aggregate_heads is false", "set it to true", "'primaps'", aggregate_heads=False
    )


def test_strategies_without_shared_heads_or_without_training_are_allowed():
    assert not settle(strategy="local").aggregate_heads
    assert settle(strategy="pca", lloyd_rounds=1).rounds == 0
    assert settle(strategy="centralized").aggregate_heads
    assert not settle(aggregate_centroids=False).aggregate_centroids


def test_settings_out_of_range_are_refused_by_their_keys():
    for settings, fragment in (
        ({"positions": 0}, "local.primaps.positions must be at least 1"),
        ({"threshold": 0.0}, "local.primaps.threshold must be above 0"),
        ({"coverage": 1.5}, "local.primaps.coverage must be at most 1"),
        ({"most_masks": 256}, "local.primaps.most_masks must be at most 255"),
        ({"temperature": 0.0}, "local.primaps.temperature"),
        ({"focus": -1.0}, "local.primaps.focus"),
        ({"momentum": 1.0}, "local.primaps.momentum must lie in [0, 1), got 1.0"),
    ):
        with pytest.raises(ConfigError) as caught:
            PrimapsSettings(**settings)
        assert fragment in str(caught.value)


def test_a_teacher_begins_with_the_received_centroids(seeded):
    model = model_of(seeded, 5, clusters=3, code=4)
    begun = begin_teacher(model, {}, None)["teacher"]
    assert torch.equal(begun, model.centroids)
    assert begun is not model.centroids


def test_a_teacher_takes_the_order_and_the_lengths_of_the_received_centroids():
    kept = torch.tensor([[0.0, 3.0], [8.0, 0.0]])
    received = Model({}, torch.tensor([[2.0, 0.1], [0.1, 1.0]]))
    begun = begin_teacher(received, {"teacher": kept}, None)["teacher"]
    lengths = received.centroids.norm(dim=1)
    torch.testing.assert_close(begun, torch.diag(lengths))
    assert match_rows(kept, received.centroids).tolist() == [[8.0, 0.0], [0.0, 3.0]]


def test_a_teacher_follows_by_its_momentum():
    carried, centroids = {"teacher": torch.tensor([[1.0, 0.0]])}, torch.tensor([[0.0, 1.0]])
    found = follow_teacher(carried, {}, centroids, PrimapsSettings(momentum=0.75))["teacher"]
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25]]))
