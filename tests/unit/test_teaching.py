"""The exchanges of teaching: classes of several clients, sums, checks, and what is refused."""

from dataclasses import replace

import pytest
import torch

from fusseg.config.file import parse_config
from fusseg.config.schema import TeachConfig
from fusseg.core.errors import ConfigError, FederationError
from fusseg.features.labeled_features import LabeledFeatures, pool_labeled
from fusseg.federation.checks import check_plausible
from fusseg.federation.parts import ClientFacts
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Work
from fusseg.federation.rounds import Round, initial_state, run_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import Client, ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.federation.teaching import (
    MOST_LABELS,
    check_classes,
    fit_classes,
    number_classes,
)
from fusseg.segmentation.classifier import Chosen
from fusseg.segmentation.training import TrainingPlan

PLAIN = TeachConfig()
CLASSES = (("metal", ("Metal", "metal")), ("sky", ("sky",)))


def protocol_of(**teach):
    table = {
        "model": {"num_clusters": 2, "code_dim": 3, "init_steps": 1, "whitening": 0.0},
        "federation": {"strategy": "pca", "keep": "last", "teach": True},
        "teach": teach,
    }
    return resolve(parse_config(table))


@pytest.fixture
def client(random_features, tmp_path):
    """Six images of 12 positions; the first two have labels."""

    def make(name, seed=0, classes=("sky", "metal"), labels=None):
        features = random_features(seed, name=name)
        if labels is None:
            labels = torch.arange(24).reshape(2, 12) % 2
        own = features.pick(torch.arange(len(labels)).numpy())
        return Client(name, features, tmp_path, labeled=LabeledFeatures(own, labels, classes))

    return make


def test_classes_get_the_numbers_of_the_federation_and_others_none():
    assert number_classes(["sky", "Metal", "fish"], CLASSES) == [1, 0, -1]


@pytest.mark.parametrize(
    ("classes", "settings", "fragment"),
    [
        ((), PLAIN, "fewer than 2 classes (none)"),
        (CLASSES[:1], PLAIN, "fewer than 2 classes (metal)"),
        (
            tuple((str(one), (str(one),)) for one in range(MOST_LABELS - 1)),
            TeachConfig(unknown_below=0.5),
            "makes 256 labels, more than the 255",
        ),
    ],
)
def test_too_few_or_too_many_classes_are_refused(classes, settings, fragment):
    with pytest.raises(FederationError) as error:
        check_classes(classes, settings, num_clusters=2)
    assert fragment in str(error.value)


def test_positions_without_a_label_or_of_another_class_are_left_out(client):
    labels = torch.tensor([[-1, 0, 1, 2] + [-1] * 8])
    labeled = client("a", classes=("sky", "fish", "Metal"), labels=labels).labeled
    mean = torch.ones(5)
    ((features, classes),) = labeled.images(mean, number_classes(labeled.classes, CLASSES))
    assert classes.tolist() == [1, 0]
    expected = labeled.features.feature_map(0).flatten(0, 1)[[1, 3]] - 1
    assert torch.equal(features, expected)


def work(client, protocol, classes=CLASSES):
    plan = TrainingPlan(1, torch.zeros(5), {}, classes)
    state = initial_state(protocol, plan)
    return Work(client, state.model, state, protocol, KeptCodes(0, 0))


def test_a_client_without_labels_sends_zeros(random_features, tmp_path):
    protocol = protocol_of()
    alone = Client("a", random_features(0), tmp_path)
    sent = protocol.teaching[0].measure(work(alone, protocol))
    assert {name: bool(part.any()) for name, part in sent.items()} == {
        "counts": False,
        "first": False,
        "second": False,
        "images": False,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counts": torch.tensor([73, 0])}, "labels at 73 positions of 2 images"),
        ({"images": torch.tensor(7)}, "of 7 images, but it has 72 positions of 6 images"),
        ({"first": torch.full((2, 5), 1e9, dtype=torch.float64)}, "too large for its number"),
        ({"second": -torch.eye(5, dtype=torch.float64)}, "that its sum of squares does not allow"),
    ],
)
def test_statistics_that_no_labels_can_have_are_refused(change, reason, client):
    protocol = protocol_of()
    task, inputs = protocol.teaching[0], work(client("a"), protocol)
    parts, facts = task.parts(inputs.state, protocol), ClientFacts(6, 12)
    sent = task.measure(inputs)
    check_plausible(ClientUpdate("a", 6, parts=sent), parts, facts)
    with pytest.raises(FederationError) as error:
        check_plausible(ClientUpdate("a", 6, parts={**sent, **change}), parts, facts)
    assert reason in str(error.value)


def test_counts_of_left_out_images_are_checked(client):
    protocol = protocol_of()
    first, second = protocol.teaching
    inputs = work(client("a"), protocol)
    sums = first.measure(inputs)
    inputs = replace(inputs, state=replace(inputs.state, class_sums=sums))
    parts, facts = second.parts(inputs.state, protocol), ClientFacts(6, 12)
    sent = second.measure(inputs)
    # Each of the 24 labeled positions is classified once, with every shrinkage.
    assert sent["confusion"].sum(dim=(1, 2)).tolist() == [24] * 8
    check_plausible(ClientUpdate("a", 6, parts=sent), parts, facts)
    for name, lie, reason in (
        ("confusion", sent["confusion"] + 30, "but it has 72"),
        ("likelihood", -sent["likelihood"], "probabilities above 0"),
    ):
        with pytest.raises(FederationError, match=reason):
            check_plausible(ClientUpdate("a", 6, parts={**sent, name: lie}), parts, facts)


def test_classes_with_too_few_positions_are_left_to_the_regions():
    totals = {
        "counts": torch.tensor([4, 2, 5]),
        "first": torch.randn(3, 5, dtype=torch.float64),
        "second": 20 * torch.eye(5, dtype=torch.float64),
        "images": torch.tensor(3),
    }
    classes = (("a", ("a",)), ("b", ("b",)), ("c", ("c",)))
    taught = fit_classes(classes, totals, Chosen(0.1, 2.0, None), 0.25)
    assert (taught.names, taught.lacking, taught.positions) == (("a", "c"), ("b",), (4, 5))
    assert taught.classifier.num_classes == 2
    assert taught.classifier.unknown_below == 0.25
    none = fit_classes(classes, {**totals, "counts": torch.tensor([4, 0, 0])}, taught.chosen, 0.0)
    assert none.classifier is None


def run(clients, protocol, classes=CLASSES):
    mean = torch.zeros(5)
    state = initial_state(protocol, TrainingPlan(1, mean, {}, classes))
    exchange = simulate(clients, {}, protocol)
    rounds = [one for one in run_rounds(state, exchange, protocol) if isinstance(one, Round)]
    return rounds[-1].state


def test_labels_at_one_client_teach_what_they_teach_spread_over_two(client):
    protocol = protocol_of()
    first, second = client("a", 1), client("b", 2)
    apart = run([first, second], protocol).taught
    other = Client("c", second.features, second.cache)
    pooled = replace(first, labeled=pool_labeled([first.labeled, second.labeled]))
    together = run([pooled, other], protocol).taught
    assert apart.names == together.names == ("metal", "sky")
    assert apart.positions == together.positions == (24, 24)
    assert apart.chosen == together.chosen
    torch.testing.assert_close(apart.classifier.weight, together.classifier.weight)
    torch.testing.assert_close(apart.classifier.bias, together.classifier.bias)


def test_a_given_shrinkage_takes_one_exchange(client):
    protocol = protocol_of(shrinkage=0.5)
    assert [task.name for task in protocol.teaching] == ["class-sums"]
    taught = run([client("a")], protocol).taught
    assert taught.chosen.shrinkage == 0.5
    assert taught.chosen.mean_iou is None


def test_teaching_is_refused_where_nothing_is_sent_or_regions_differ():
    local = {"federation": {"strategy": "local", "teach": True}}
    with pytest.raises(ConfigError, match="no client sends anything"):
        resolve(parse_config(local))
    own = {
        "federation": {"strategy": "fedavg", "teach": True, "aggregate_heads": False},
        "teach": {"unknown_below": 0.5},
    }
    with pytest.raises(ConfigError, match="the regions of one model"):
        resolve(parse_config(own))


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"unknown_below": 1.0}, "teach.unknown_below must lie in [0, 1)"),
        ({"shrinkage": -1.0}, "teach.shrinkage must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, fragment):
    with pytest.raises(ConfigError) as error:
        parse_config({"teach": settings})
    assert fragment in str(error.value)
