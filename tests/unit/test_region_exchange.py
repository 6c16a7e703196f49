"""The exchange that merges clusters to regions: what clients send, and how it is merged."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import ConfigError
from fusseg.federation.gathering import aggregate
from fusseg.federation.lloyd_steps import LLOYD_STEP
from fusseg.federation.points import KeptCodes
from fusseg.federation.protocol import Work
from fusseg.federation.rounds import Round, initial_state, num_updates, run_rounds
from fusseg.federation.simulation import simulate
from fusseg.federation.state import Client, ClientUpdate, GlobalState
from fusseg.federation.strategies import STRATEGIES, resolve
from fusseg.segmentation.head import initial_head, linear_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

AGREED = {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}


def settle(
    num_regions=2, *, merge_by="codes", clusters=4, init="random", strategy="lloyd", **federation
):
    model = ModelConfig(
        num_clusters=clusters,
        num_regions=num_regions,
        merge_by=merge_by,
        code_dim=2,
        init=init,
        init_steps=2,
        whitening=0.0,
    )
    tables = {"stego": {"positions": 4, "neighbors": 2}}
    local = LocalConfig(steps=2, batch_size=2, tables=tables)
    federated = FederationConfig(strategy=strategy, **{"keep": "last", **federation})
    return resolve(Config(model=model, local=local, federation=federated))


def at(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.fixture
def state(seeded):
    """Codes are the features themselves; four centroids in a plane."""
    head = linear_head(torch.eye(2), torch.zeros(2), initial_head(2, 2, seeded(0)))
    model = Model(head, at(0, 50, 110, 250).float())
    return GlobalState(1, model, TrainingPlan(2, torch.zeros(2), AGREED))


def merged(state, protocol, *sent):
    (task,) = protocol.merging
    updates = [ClientUpdate(name, 1, parts=parts) for name, parts in zip("abc", sent, strict=False)]
    return aggregate(state, updates, protocol, task, Generator()).model


def sums(lengths, counts, borders=None):
    """Codes at the centroids' angles, with sums of the given lengths."""
    lengths = torch.tensor(lengths, dtype=torch.float64)
    sent = {"sums": at(0, 50, 110, 250) * lengths[:, None], "counts": torch.tensor(counts)}
    return sent if borders is None else {**sent, "borders": torch.tensor(borders)}


TRAINED = sorted(name for name, strategy in STRATEGIES.items() if strategy.trains)


@pytest.mark.parametrize("strategy", [name for name in TRAINED if name != "local"])
def test_every_round_ends_by_merging_with_every_strategy(strategy):
    plain = settle(None, init="pca", strategy=strategy, rounds=2, lloyd_rounds=1)
    protocol = settle(init="pca", strategy=strategy, rounds=2, lloyd_rounds=1)
    for number in range(4):
        before = [task.name for task in plain.tasks(number)]
        assert "regions" not in before
        assert [task.name for task in protocol.tasks(number)] == [*before, "regions"]
    more = num_updates(0, 3, 3, protocol) - num_updates(0, 3, 3, plain)
    assert more == 3 * 4


def test_a_start_without_training_is_merged_too():
    protocol = settle(init="pca", strategy="pca")
    assert [task.name for task in protocol.tasks(0)] == ["moments", "lloyd", "lloyd", "regions"]
    assert protocol.num_rounds == 0


@pytest.mark.parametrize(
    ("strategy", "switches"),
    [
        ("local", {}),
        ("fedavg", {"aggregate_heads": False}),
        ("fedcc-kmeans", {"aggregate_centroids": False}),
    ],
)
def test_models_of_single_clients_are_not_merged(strategy, switches):
    message = (
        rf"^model.num_regions is 'auto', .* but federation.strategy '{strategy}' with these "
        "switches keeps a model per client; remove it, or choose"
    )
    with pytest.raises(ConfigError, match=message):
        settle("auto", strategy=strategy, **switches)


def test_borders_without_regions_are_refused():
    with pytest.raises(ConfigError, match=r"^model.merge_by is 'borders', but no clusters are"):
        ModelConfig(merge_by="borders")


@pytest.mark.parametrize("merge_by", ["codes", "borders"])
def test_a_client_sends_sums_counts_and_borders_alone(merge_by, state, make_features, tmp_path):
    # One map of 2 x 3 positions, with the clusters 0 0 1 above 0 2 3.
    angles = at(10, 350, 60, 0, 100, 240).reshape(1, 2, 3, 2)
    client = Client("a", make_features(3 * angles), tmp_path)
    protocol = settle(merge_by=merge_by, positions_per_image=0)
    (task,) = protocol.merging
    sent = task.measure(Work(client, state.model, state, protocol, KeptCodes(0, 0)))
    assert sent.keys() == task.parts(state, protocol).keys()
    assert sent["counts"].tolist() == [3, 1, 1, 1]
    expected = torch.stack([at(10, 350, 0).sum(dim=0), *at(60, 100, 240)])
    assert torch.allclose(sent["sums"], expected, atol=1e-3)
    if merge_by == "codes":
        assert sent.keys() == {"sums", "counts"}
    else:
        # To the right: 0-1, 0-2, 2-3; below: 0-2, 1-3.
        pairs = [[0, 1, 2, 0], [1, 0, 0, 1], [2, 0, 0, 1], [0, 1, 1, 0]]
        assert sent["borders"].tolist() == pairs


def test_borders_are_of_all_positions_where_codes_are_of_sampled_ones(
    state, random_features, tmp_path
):
    features = random_features(0, num_images=5, height=4, width=6, dim=2)
    client, protocol = Client("a", features, tmp_path), settle(merge_by="borders")
    few = settle(merge_by="borders", positions_per_image=3)
    found = []
    for rules in (protocol, few):
        (task,) = rules.merging
        kept = KeptCodes(rules.positions_per_image, rules.seed)
        found.append(task.measure(Work(client, state.model, state, rules, kept)))
    assert [int(one["counts"].sum()) for one in found] == [5 * 24, 5 * 3]
    assert torch.equal(found[0]["borders"], found[1]["borders"])
    # Neighbors of the same cluster are the rest of the 4 * 5 + 3 * 6 pairs of each image.
    assert 0 < int(found[0]["borders"].sum()) <= 2 * 5 * 38


def test_the_server_merges_the_clusters_that_are_nearest_by_the_sums_of_all_clients(state):
    # Means of length 1: cosines 0.64 of 0 and 50 degrees, 0.5 of 50 and 110. If one client's codes
    # of the first cluster scatter, 0 and 50 are farther from each other than 50 and 110.
    near = sums([5, 5, 5, 5], [5, 5, 5, 5])
    assert merged(state, settle(3), near).region_of.tolist() == [0, 0, 1, 2]
    scattered = sums([0, 0, 0, 0], [5, 0, 0, 0])
    assert merged(state, settle(3), near, scattered).region_of.tolist() == [0, 1, 1, 2]


def test_merging_moves_neither_head_nor_centroids(state, same_bits):
    found = merged(state, settle(3), sums([5, 5, 5, 5], [5, 5, 5, 5]))
    assert found.num_regions == 3
    assert same_bits(replace(found, region_of=None), state.model)


def test_clusters_that_meet_more_often_are_merged_first_if_borders_count(state):
    borders = [[0, 1, 0, 0], [1, 0, 9, 0], [0, 9, 0, 0], [0, 0, 0, 0]]
    sent = sums([5, 5, 5, 5], [5, 5, 5, 5], borders)
    found = merged(state, settle(3, merge_by="borders"), sent)
    assert found.region_of.tolist() == [0, 1, 1, 2]
    sent["borders"] = torch.zeros(4, 4, dtype=torch.int64)
    found = merged(state, settle(3, merge_by="borders"), sent)
    assert found.region_of.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(("degrees", "regions"), [((0, 5, 90, 95), 2), ((0, 5, 120, 240), 3)])
def test_auto_takes_the_number_that_the_clusters_suggest(degrees, regions, state):
    codes = at(*degrees)
    turned = replace(state, model=replace(state.model, centroids=codes.float()))
    sent = {"sums": 5 * codes, "counts": torch.full((4,), 5)}
    assert merged(turned, settle("auto"), sent).num_regions == regions


def test_an_old_map_ends_with_the_first_exchange_of_a_round(state):
    old = replace(state, model=replace(state.model, region_of=torch.tensor([0, 1, 0, 1])))
    update = ClientUpdate("a", 1, parts=sums([5, 5, 5, 5], [5, 5, 5, 5]))
    for protocol, kept in ((settle(3), False), (settle(None), True)):
        found = aggregate(old, [update], protocol, LLOYD_STEP, Generator())
        assert (found.model.region_of is not None) is kept


@pytest.mark.parametrize("strategy", ["fedcc-maximin", "lloyd"])
def test_every_round_has_a_map_and_trains_as_if_nothing_were_merged(
    strategy, random_features, same_bits, tmp_path
):
    clients = [
        Client(name, random_features(seed, dim=2, name=name), tmp_path)
        for seed, name in enumerate("ab")
    ]

    def models(num_regions):
        protocol = settle(num_regions, clusters=5, strategy=strategy, rounds=2, lloyd_rounds=1)
        start = initial_state(protocol, TrainingPlan(2, torch.zeros(2), AGREED))
        events = run_rounds(start, simulate(clients, {}, protocol), protocol)
        return [event.state.model for event in events if isinstance(event, Round)]

    for plain, found in zip(models(None), models(3), strict=True):
        assert (plain.num_regions, found.num_regions) == (5, 3)
        assert same_bits(replace(found, region_of=None), plain)
