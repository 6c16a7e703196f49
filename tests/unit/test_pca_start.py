"""Round 0, which computes the start from sums, by hand and against pooled clustering."""

from dataclasses import replace

import pytest
import torch

from fusseg.config.schema import BackboneConfig, Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import ConfigError
from fusseg.federation.gathering import aggregate
from fusseg.federation.lloyd_steps import CodeSums
from fusseg.federation.moments import starting_centroids, sum_moments
from fusseg.federation.pca_start import merge_centroids
from fusseg.federation.rounds import draw_participants, num_updates
from fusseg.federation.state import ClientUpdate
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import needs
from fusseg.segmentation.head import initial_head, project


def settle(
    strategy="fedavg", *, init="pca", steps=2, clusters=3, shifts=False, model=None, **federation
):
    model = ModelConfig(
        num_clusters=2,
        init=init,
        init_steps=steps,
        init_clusters=clusters,
        **{"whitening": 0.0, **(model or {})},
    )
    local = LocalConfig(tables={"stego": {"shift_from_start": shifts}})
    federated = FederationConfig(strategy=strategy, **{"keep": "last", **federation})
    zoomable = BackboneConfig(name="onnx:any.onnx")
    return resolve(Config(model=model, local=local, federation=federated, backbone=zoomable))


def test_moments_and_lloyd_steps_come_before_round_1():
    protocol = settle()
    assert protocol.first_round == 0
    assert [task.name for task in protocol.tasks(0)] == ["moments", "lloyd", "lloyd"]
    assert [task.clusters for task in protocol.tasks(0)] == [(None, 6), (6, 6), (6, 2)]
    assert [task.name for task in protocol.tasks(1)] == ["train"]


@pytest.mark.parametrize(("steps", "clusters"), [(0, 3), (2, 1)])
def test_without_steps_or_further_clusters_nothing_is_merged(steps, clusters):
    tasks = settle("pca", steps=steps, clusters=clusters).tasks(0)
    assert {task.clusters for task in tasks} <= {(None, 2), (2, 2)}
    assert len(tasks) == 1 + steps


def test_numbers_are_estimated_from_a_start_that_is_shared_and_trained():
    for strategy in ("fedavg", "centralized"):
        tasks = settle(strategy, shifts=True).tasks(0)
        assert [task.name for task in tasks] == ["moments", "lloyd", "lloyd", "estimate"]
    for strategy in ("local", "pca"):
        assert len(settle(strategy, shifts=True).tasks(0)) == 3


def test_three_whitenings_are_tried_from_one_exchange_of_moments():
    tasks = settle(model={"whitening": "auto"}).tasks(0)
    assert [task.name for task in tasks] == ["moments", "lloyd", "lloyd", "judge"]
    assert [task.clusters for task in tasks] == [(None, 6), (6, 6), (6, 2), (None, None)]
    assert [task.starts for task in tasks] == [0, 3, 3, 3]
    assert [task.judges for task in tasks] == [task.name == "judge" for task in tasks]


def test_the_filter_bank_has_one_start_and_is_judged_by_the_margin():
    protocol = resolve(Config(model=ModelConfig(num_clusters=2, init_steps=1)))
    assert [task.name for task in protocol.start] == ["moments", "lloyd", "judge"]
    assert protocol.choice


def test_numbers_are_estimated_and_clusters_merged_from_the_start_that_is_kept():
    protocol = settle(model={"whitening": "auto", "num_regions": 2}, shifts=True)
    names = [task.name for task in protocol.tasks(0)]
    assert names == ["moments", "lloyd", "lloyd", "regions", "judge", "estimate"]


@pytest.mark.parametrize(
    ("settings", "judged", "chosen"),
    [
        ({}, 3, True),
        ({"keep": "last"}, 3, False),
        ({"whitening": 0.5}, 1, True),
        ({"whitening": 0.5, "keep": "last"}, 0, False),
        ({"strategy": "centralized"}, 3, True),
        # Nothing follows the start, or one start follows another.
        ({"strategy": "pca"}, 3, False),
        ({"strategy": "pca", "lloyd_rounds": 1}, 3, True),
        # There is no common trained model, or no common start either.
        ({"aggregate_heads": False}, 3, False),
        ({"aggregate_centroids": False}, 3, False),
        ({"strategy": "local"}, 0, False),
        # Nothing was computed that could be kept.
        ({"init": "random"}, 0, False),
        ({"start": "runs/saved"}, 0, False),
    ],
)
def test_models_are_judged_where_there_is_more_than_one_to_choose_from(settings, judged, chosen):
    given = dict(settings)
    model = {"whitening": given.pop("whitening", "auto"), "start": given.pop("start", "")}
    protocol = settle(given.pop("strategy", "fedavg"), model=model, **{"keep": "best", **given})
    starts = sum(max(1, task.starts) for task in protocol.start if task.judges)
    assert (starts, bool(protocol.choice)) == (judged, chosen)
    assert protocol.judges is bool(judged or chosen)
    last = protocol.counted_rounds + chosen
    assert protocol.num_rounds == last
    asked = [task.name for task in protocol.tasks(last)]
    assert (asked == ["judge"], protocol.is_choice(last)) == (chosen, chosen)


@pytest.mark.parametrize("settings", [{"init": "random"}, {"model": {"start": "runs/saved"}}])
def test_a_drawn_or_loaded_start_has_no_round_0(settings):
    protocol = settle(**settings)
    assert (protocol.first_round, protocol.tasks(0)) == (1, ())


@pytest.mark.parametrize("strategy", ["fedavg", "pca"])
def test_the_start_has_whitened_components_and_centroids_drawn_among_them(
    strategy, make_state, seeded
):
    """Of two channels the first varies 100 times as far; whitened, both count alike."""
    features = torch.randn(500, 2, generator=seeded(0)) * torch.tensor([100.0, 1.0])
    sent = [ClientUpdate("client", 500, parts=vars(sum_moments([features], 2)))]
    start = make_state(initial_head(2, 3, seeded(1)), torch.zeros(2, 3), dim=2)
    protocol = settle(strategy, model={"code_dim": 3, "whitening": 1.0})
    found = aggregate(start, sent, protocol, protocol.tasks(0)[0], seeded(2)).model
    spread = project(found.head, features).std(dim=0, correction=0)
    assert spread.tolist() == pytest.approx([1, 1, 0], abs=1e-5)
    expected = starting_centroids(torch.tensor([1.0, 1.0, 0.0]).double(), 6, seeded(2))
    assert torch.allclose(found.centroids, expected, atol=1e-5)


def test_all_clients_take_part_in_round_0_whatever_is_drawn_later():
    protocol = settle(clients_per_round=1, rounds=2)
    assert draw_participants("cab", 0, protocol) == ("a", "b", "c")
    assert len(draw_participants("cab", 1, protocol)) == 1
    assert num_updates(0, 2, 3, protocol) == 3 * 3 + 2


def test_all_clients_take_part_in_the_choice_whatever_is_drawn_before():
    protocol = settle(clients_per_round=1, rounds=2, keep="best")
    assert [len(draw_participants("cab", number, protocol)) for number in range(4)] == [3, 1, 1, 3]
    assert num_updates(0, 3, 3, protocol) == 3 * 4 + 2 + 3


def test_clients_that_keep_a_part_share_its_start_and_those_that_train_alone_do_not():
    own_heads = settle(aggregate_heads=False)
    assert own_heads.shares_start
    assert needs(own_heads.tasks(1)[0], own_heads) == (True, True)
    drawn = settle(aggregate_heads=False, init="random")
    assert needs(drawn.tasks(1)[0], drawn) == (False, True)
    assert not settle("local").shares_start
    assert settle("centralized").first_round == 0


def test_pca_is_the_start_alone():
    protocol = settle("pca", rounds=9)
    assert (protocol.first_round, protocol.num_rounds) == (0, 0)
    with pytest.raises(ConfigError, match="set it to 'pca'"):
        settle("pca", init="random")


def test_the_two_clusters_with_the_largest_mean_cosine_are_merged():
    """Ten codes along x, two near x, five along y: the first two groups become one."""
    sums = torch.tensor([[10.0, 0.0], [1.6, 1.2], [0.0, 5.0]], dtype=torch.float64)
    found = CodeSums(sums, torch.tensor([10, 2, 5]))
    merged = merge_centroids(torch.eye(3)[:, :2] + 1, found, num_clusters=2)
    expected = torch.tensor([[11.6, 1.2], [0.0, 5.0]])
    assert torch.allclose(merged, expected / expected.norm(dim=1, keepdim=True))


def test_empty_clusters_fill_in_where_too_few_have_codes():
    sums = torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    found = CodeSums(sums, torch.tensor([0, 3, 0]))
    merged = merge_centroids(torch.tensor([[1.0, 0], [0, 1], [1, 1]]), found, num_clusters=2)
    assert merged.tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
def test_the_order_of_the_clusters_changes_only_the_order_of_the_merged_ones(order, seeded):
    codes = torch.nn.functional.normalize(torch.randn(4, 5, generator=seeded(3)).double(), dim=1)
    found = CodeSums(codes * 7, torch.tensor([7, 8, 9, 10]))
    moved = replace(found, sums=found.sums[order], counts=found.counts[order])
    one = merge_centroids(codes.float(), found, 2)
    other = merge_centroids(codes[order].float(), moved, 2)
    nearest = (one @ other.T).max(dim=1)
    assert torch.allclose(nearest.values, torch.ones(2), atol=1e-6)
    assert sorted(nearest.indices.tolist()) == [0, 1]
