"""A model whose clusters are merged keeps its regions, wherever it is trained, sent or saved."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import ConfigError, DataError, FederationError
from fusseg.deployment.site.site_disk import load_memory, save_memory
from fusseg.deployment.wire.payloads import Request, pack_task, unpack_task
from fusseg.evaluation.held_out import Evaluation
from fusseg.evaluation.quality import Quality
from fusseg.federation.answer import current_model
from fusseg.federation.gathering import aggregate
from fusseg.federation.head_precision import receive_state
from fusseg.federation.lloyd_steps import LLOYD_STEP, CodeSums
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import ClientUpdate, GlobalState, Memory
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import make_delivery
from fusseg.runs.adapt import _describe_moves
from fusseg.runs.saved_state import SavedState, load_state, save_state
from fusseg.segmentation.assignment import build_segmenter, cosines
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model, check_regions, count_regions
from fusseg.segmentation.objectives import settle_local
from fusseg.segmentation.training import Trainee, TrainingPlan, train_together

REGION_OF = torch.tensor([0, 1, 0, 2])
AGREED = {"shift_self": 0.4, "shift_neighbor": 0.2, "shift_random": 0.3}
PLAN = TrainingPlan(2, torch.zeros(3), AGREED)
REQUEST = Request("run1", "0" * 64, "lloyd", 4, 0)


def settle(strategy="lloyd", **federation):
    return resolve(
        Config(
            model=ModelConfig(num_clusters=4, code_dim=2),
            federation=FederationConfig(strategy=strategy, rounds=3, lloyd_rounds=2, **federation),
        )
    )


@pytest.fixture
def model(seeded):
    return Model(initial_head(3, 2, seeded(0)), torch.randn(4, 2, generator=seeded(1)), REGION_OF)


@pytest.fixture
def state(model):
    return GlobalState(3, model, PLAN)


def test_a_cosine_with_a_region_is_the_largest_with_its_clusters():
    head = initial_head(3, 2, torch.Generator().manual_seed(0))
    centroids = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    segmenter = build_segmenter(Model(head, centroids, REGION_OF), torch.zeros(3))
    assert (segmenter.num_clusters, segmenter.num_regions) == (4, 3)
    found = cosines(segmenter, torch.tensor([[[-3.0, 4.0]]]))
    # With the clusters: -0.6, 0.8, 0.6, -0.8.
    assert torch.allclose(found, torch.tensor([[0.6, 0.8, -0.8]]))


def test_a_model_without_a_map_has_a_region_per_cluster(model):
    assert model.num_regions == 3
    assert replace(model, region_of=None).num_regions == 4
    assert count_regions(model.centroids, torch.tensor([1, 0, 1, 0])) == 2


@pytest.mark.parametrize(
    ("region_of", "reason"),
    [
        (torch.tensor([0, 2, 0, 2]), r"numbered \[0, 2\]"),
        (torch.tensor([1, 2, 1, 2]), r"numbered \[1, 2\]"),
        (torch.tensor([-1, 0, 1, 1]), r"numbered \[-1, 0, 1\]"),
        (torch.tensor([0, 0, 0, 0]), r"numbered \[0\]"),
        (torch.tensor([0, 1, 1]), r"4 clusters as torch.int64 of shape \(3,\)"),
        (torch.tensor([[0, 1, 1, 0]]), r"shape \(1, 4\)"),
        (torch.tensor([0.0, 1.0, 1.0, 0.0]), r"torch.float32"),
    ],
)
def test_a_map_with_gaps_or_of_another_length_is_refused(region_of, reason, model, tmp_path):
    with pytest.raises(ValueError, match=reason):
        check_regions(region_of, 4)
    save_state(tmp_path, SavedState(GlobalState(1, model, PLAN), {}, "f" * 64))
    file = tmp_path / "state.safetensors"
    rewrite(file, region_of)
    with pytest.raises(DataError, match=rf"^damaged state: {re.escape(str(file))} \(.*{reason}"):
        load_state(tmp_path)


def rewrite(file, region_of):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file) | {"region_of": region_of}, file, metadata)


def test_a_saved_state_has_the_map_of_every_model_and_none_where_there_is_none(
    model, same_bits, tmp_path
):
    plain = replace(model, region_of=None)
    memories = {"north": Memory(replace(model, region_of=torch.tensor([1, 0, 0, 1])))}
    save_state(tmp_path, SavedState(GlobalState(1, model, PLAN), memories, "f" * 64))
    found = load_state(tmp_path)
    assert same_bits(found.state.model, model)
    assert same_bits(found.memories["north"].model, memories["north"].model)
    save_state(tmp_path, SavedState(GlobalState(1, plain, PLAN), {}, "f" * 64))
    assert "region_of" not in load_file(tmp_path / "state.safetensors")
    assert load_state(tmp_path).state.model.region_of is None


def test_training_keeps_the_map_of_each_client(model, random_features, tmp_path):
    tables = {"stego": {"positions": 4, "neighbors": 2}}
    local = settle_local(LocalConfig(batch_size=2, tables=tables), num_clusters=4)
    features = random_features(0, dim=3)
    others = replace(model, region_of=torch.tensor([1, 0, 1, 1]))
    trainees = [
        Trainee(
            model=one,
            features=features,
            prepared=local.objective.prepare(features, PLAN.mean_feature, local.settings, tmp_path),
            generator=torch.Generator().manual_seed(0),
        )
        for one in (model, others, replace(model, region_of=None))
    ]
    maps = [one.model.region_of for one in train_together(trainees, PLAN, local)]
    assert torch.equal(maps[0], REGION_OF)
    assert torch.equal(maps[1], others.region_of)
    assert maps[2] is None


def lloyd_update():
    parts = vars(CodeSums(torch.eye(4, 2, dtype=torch.float64), torch.tensor([1, 1, 0, 0])))
    return ClientUpdate("north", 1, parts=parts)


def test_aggregation_keeps_the_map(state):
    found = aggregate(state, [lloyd_update()], settle(), LLOYD_STEP, torch.Generator())
    assert not torch.equal(found.model.centroids, state.model.centroids)
    assert torch.equal(found.model.region_of, REGION_OF)


def test_a_merge_may_return_another_map_but_not_a_wrong_one(state):
    def merging(region_of):
        task = replace(
            LLOYD_STEP, merge=lambda gathered: replace(gathered.state.model, region_of=region_of)
        )
        return aggregate(state, [lloyd_update()], settle(), task, torch.Generator())

    other = torch.tensor([0, 0, 1, 1])
    assert torch.equal(merging(other).model.region_of, other)
    message = r"^federation.strategy 'lloyd' returned regions numbered \[0, 3\]; must be 0, 1 and"
    with pytest.raises(FederationError, match=message):
        merging(torch.tensor([0, 0, 3, 3]))


def test_a_narrow_head_travels_without_losing_the_map(state):
    assert torch.equal(receive_state(state, "bfloat16").model.region_of, REGION_OF)


def test_a_client_takes_the_map_that_belongs_to_its_centroids(state, model):
    own = Memory(replace(model, region_of=torch.tensor([1, 0, 0, 1])))
    shared = settle("fedavg")
    assert torch.equal(current_model(state, own, shared).region_of, REGION_OF)
    apart = settle("fedavg", aggregate_centroids=False)
    assert torch.equal(current_model(state, own, apart).region_of, own.model.region_of)


def test_the_map_travels_with_the_centroids(state, tmp_path):
    protocol = settle()
    delivery = make_delivery(state, LLOYD_STEP, protocol)
    assert set(delivery.fresh) == {"centroids", "region_of"}
    packet = pack_task(state, REQUEST, delivery, delivery.kept)
    found = unpack_task(packet, LLOYD_STEP, protocol, 3, tmp_path)
    assert torch.equal(found.model.region_of, REGION_OF)
    plain = replace(state, model=replace(state.model, region_of=None))
    assert set(make_delivery(plain, LLOYD_STEP, protocol).fresh) == {"centroids"}


@pytest.mark.parametrize(
    ("region_of", "reason"),
    [
        (torch.tensor([0, 2, 0, 2]), r"regions numbered \[0, 2\]"),
        (torch.tensor([0, 1, 0]), r"region_of of shape \(3,\), expected \(4,\)"),
        (torch.tensor([-1, 0, 1, 1]), "region_of with a value below 0: -1"),
    ],
)
def test_a_site_refuses_a_wrong_map(region_of, reason, state, tmp_path):
    protocol = settle()
    delivery = make_delivery(state, LLOYD_STEP, protocol)
    packet = pack_task(state, REQUEST, delivery, delivery.kept)
    packet = replace(packet, tensors={**packet.tensors, "region_of": region_of})
    with pytest.raises(FederationError, match=rf"^the server sent {reason}"):
        unpack_task(packet, LLOYD_STEP, protocol, 3, tmp_path)


def test_a_site_keeps_the_map_of_its_own_model(model, same_bits, tmp_path):
    save_memory(tmp_path, 1, Memory(model))
    assert same_bits(load_memory(tmp_path, 2).model, model)
    (file,) = tmp_path.glob("own/*")
    save_file(load_file(file) | {"region_of": torch.tensor([0, 3, 3, 0])}, file)
    with pytest.raises(DataError, match=r"^damaged model: .*numbered \[0, 3\]"):
        load_memory(tmp_path, 2)


def test_a_drawn_model_has_no_map():
    assert initial_state(settle(), PLAN).model.region_of is None


def test_a_region_has_moved_as_far_as_the_farthest_of_its_centroids(model):
    old = replace(model, centroids=torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, -2]]))
    turned = normalize(torch.tensor([[1.0, 0], [0.6, 0.8], [0.8, 0.6], [0, -1]]), dim=1)
    shares = [torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.3, 0.3])]
    evaluations = {
        name: Evaluation(Quality(share, 0.9, 0.1), None)
        for name, share in zip(("Before", "After"), shares, strict=True)
    }
    states = ("unmoved", "held", "moved", "kept")
    found = _describe_moves(old, replace(old, centroids=turned), evaluations, states)
    assert [one["cosine"] for one in found] == pytest.approx([0.8, 0.8, 1.0])
    assert [one["state"] for one in found] == ["moved", "held", "kept"]
    assert [one["share_after"] for one in found] == pytest.approx([0.4, 0.3, 0.3])


@pytest.mark.parametrize("number", [2, 4, "auto", None])
def test_numbers_of_regions_up_to_that_of_clusters_are_taken(number):
    assert ModelConfig(num_clusters=4, num_regions=number).num_regions == number


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, r"^model.num_regions must be at least 2, got 1$"),
        (5, r"^model.num_regions is 5, but only the 4 clusters of model.num_clusters can be"),
    ],
)
def test_other_numbers_of_regions_are_refused(number, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(num_clusters=4, num_regions=number)
