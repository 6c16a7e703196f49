from dataclasses import replace

import pytest
import torch

from fusseg.config import Config, FederationConfig, ModelConfig
from fusseg.deployment.packet import Packet
from fusseg.deployment.payloads import (
    Request,
    check_answers,
    narrow_expected,
    pack_hello,
    pack_state,
    pack_update,
    read_request,
    unpack_hello,
    unpack_state,
    unpack_update,
)
from fusseg.errors import FederationError
from fusseg.federation.aggregation import expected_tensors
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import CentroidUsage, ClientUpdate, GlobalState, Hello
from fusseg.federation.wire import narrow_update
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.training import Model, TrainingPlan
from fusseg.version import VERSION

CONFIG = Config(seed=5, model=ModelConfig(num_clusters=2, code_dim=3))
FEDAVG = FederationConfig(strategy="fedavg")
REQUEST = Request("run1", "0" * 64, "train", 3, 0)
HEAD = [
    "head.hidden.bias",
    "head.hidden.weight",
    "head.linear.bias",
    "head.linear.weight",
    "head.output.bias",
    "head.output.weight",
]
PLAN = TrainingPlan(
    num_steps=7, mean_feature=torch.tensor([1.0, -2.0, 0.5, 3.0]), shift=(0.1, -0.2, 0.3)
)
HELLO = Hello(
    client_id="north",
    num_images=3,
    feature_sum=torch.tensor([1.5, -2.5], dtype=torch.float64),
    feature_count=12,
    shift=(0.1, -0.2, 2.0),
    fingerprint="f" * 64,
    version=VERSION,
)


@pytest.fixture
def state(seeded):
    generator = seeded(1)
    model = Model(initial_head(4, 3, generator), torch.randn(2, 3, generator=generator))
    return GlobalState(round_number=2, model=model, plan=PLAN)


def changed(packet, tensors=None, **fields):
    """The same packet with other fields and tensors; None takes one away."""
    merged = {**packet.fields, **fields}
    sent = {**packet.tensors, **(tensors or {})}
    return Packet(
        {name: value for name, value in merged.items() if value is not None},
        {name: value for name, value in sent.items() if value is not None},
    )


def refused(function, *arguments, **options):
    with pytest.raises(FederationError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_a_request_names_run_settings_task_round_place_and_version():
    assert REQUEST.fields() == {
        "run": "run1",
        "offer": "0" * 64,
        "task": "train",
        "round": 3,
        "place": 0,
        "version": VERSION,
    }
    assert read_request(Packet(REQUEST.fields())) == REQUEST


@pytest.mark.parametrize("task", ["train", "lloyd", "moments", "evaluate", "finish"])
def test_five_tasks_are_known(task):
    request = replace(REQUEST, task=task)
    assert read_request(Packet(request.fields())) == request


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "hello"}, "field 'task' must be a known task, got 'hello'"),
        ({"task": "Train"}, "field 'task' must be a known task, got 'Train'"),
        ({"task": None}, "field 'task' must be a word, got None"),
        ({"version": "0.0.0"}, f"field 'version' must be {VERSION!r}, got '0.0.0'"),
        ({"run": None}, "field 'run' must be a word, got None"),
        ({"offer": 3}, "field 'offer' must be a word, got 3"),
        ({"round": 0}, "field 'round' must be 1 to 9007199254740992, got 0"),
        ({"round": "1"}, "field 'round' must be a whole number, got '1'"),
        ({"place": -1}, "field 'place' must be 0 to 9007199254740992, got -1"),
        ({"place": None}, "field 'place' must be a whole number, got None"),
    ],
)
def test_fields_of_a_request_are_checked(change, message):
    assert refused(read_request, changed(Packet(REQUEST.fields()), **change)) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "run2"),
        ("offer", "1" * 64),
        ("task", "lloyd"),
        ("round", 2),
        ("place", 1),
        ("version", "0.0.0"),
    ],
)
def test_an_answer_to_something_else_is_refused(name, value):
    answer = Packet({**REQUEST.fields(), "state": "done"})
    check_answers(answer, REQUEST)
    message = f"field {name!r} must be {REQUEST.fields()[name]!r}, got "
    assert (
        refused(check_answers, changed(answer, **{name: value}), REQUEST) == f"{message}{value!r}"
    )
    assert refused(check_answers, changed(answer, **{name: None}), REQUEST) == f"{message}None"


def test_a_state_arrives_as_it_was_sent(state, same_bits):
    packet = pack_state(state, REQUEST, FEDAVG)
    assert sorted(packet.tensors) == ["centroids", *HEAD, "mean_feature"]
    found = unpack_state(packet, CONFIG, FEDAVG, 4)
    assert same_bits(found.model, state.model)
    assert torch.equal(found.plan.mean_feature, PLAN.mean_feature)
    assert (found.plan.num_steps, found.plan.shift) == (7, (0.1, -0.2, 0.3))
    assert found.round_number == 2


@pytest.mark.parametrize(
    ("task", "finished"),
    [("train", 2), ("lloyd", 2), ("moments", 2), ("evaluate", 3), ("finish", 3)],
)
def test_a_task_names_its_round_and_the_scores_one_that_is_finished(state, task, finished):
    packet = pack_state(state, replace(REQUEST, task=task), FEDAVG)
    assert unpack_state(packet, CONFIG, FEDAVG, 4).round_number == finished


def test_what_is_not_shared_is_not_sent_and_is_that_of_round_0(state, same_bits):
    start = initial_state(CONFIG.model, PLAN, CONFIG.seed).model
    own_heads = replace(FEDAVG, aggregate_heads=False)
    packet = pack_state(state, REQUEST, own_heads)
    assert sorted(packet.tensors) == ["centroids", "mean_feature"]
    found = unpack_state(packet, CONFIG, own_heads, 4)
    assert same_bits(found.model, Model(start.head, state.model.centroids))

    own_centroids = replace(FEDAVG, aggregate_centroids=False)
    packet = pack_state(state, REQUEST, own_centroids)
    assert sorted(packet.tensors) == [*HEAD, "mean_feature"]
    found = unpack_state(packet, CONFIG, own_centroids, 4)
    assert same_bits(found.model, Model(state.model.head, start.centroids))

    neither = replace(own_heads, aggregate_centroids=False)
    packet = pack_state(state, REQUEST, neither)
    assert sorted(packet.tensors) == ["mean_feature"]
    assert same_bits(unpack_state(packet, CONFIG, neither, 4).model, start)


def test_heads_travel_down_rounded_to_bfloat16(state):
    halved = replace(FEDAVG, wire="bfloat16")
    # Of the 24 binary digits of 1 + 2^-8 + 2^-20 eight are kept, rounded up past the half.
    state.model.head["linear.bias"][:] = 1 + 2**-8 + 2**-20
    packet = pack_state(state, REQUEST, halved)
    assert {packet.tensors[name].dtype for name in HEAD} == {torch.bfloat16}
    assert packet.tensors["centroids"].dtype == torch.float32
    found = unpack_state(packet, CONFIG, halved, 4)
    assert found.model.head["linear.bias"].tolist() == [1 + 2**-7] * 3
    assert found.model.head["linear.bias"].dtype == torch.float32
    assert torch.equal(found.model.centroids, state.model.centroids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "field 'num_steps' must be 1 to 1000000000, got 0"),
        ({"num_steps": 10**9 + 1}, "field 'num_steps' must be 1 to 1000000000, got 1000000001"),
        ({"num_steps": 1.0}, "field 'num_steps' must be a whole number, got 1.0"),
        ({"shift_0": None}, "field 'shift_0' must be a finite number, got None"),
        ({"shift_1": 1}, "field 'shift_1' must be a finite number, got 1"),
        ({"shift_2": float("nan")}, "field 'shift_2' must be a finite number, got nan"),
        ({"round": 0}, "field 'round' must be 1 to 9007199254740992, got 0"),
    ],
)
def test_fields_of_a_state_are_checked(state, change, message):
    packet = changed(pack_state(state, REQUEST, FEDAVG), **change)
    assert refused(unpack_state, packet, CONFIG, FEDAVG, 4) == message


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mean_feature": None}, "sent [], expected ['mean_feature']"),
        ({"mean_feature": torch.zeros(5)}, "sent mean_feature of shape (5,), expected (4,)"),
        (
            {"mean_feature": torch.zeros(4).double()},
            "sent mean_feature as torch.float64, expected torch.float32",
        ),
        (
            {"mean_feature": torch.full((4,), torch.nan)},
            "sent mean_feature with values that are not finite",
        ),
        ({"centroids": torch.zeros(3, 3)}, "sent centroids of shape (3, 3), expected (2, 3)"),
        (
            {"centroids": torch.full((2, 3), -torch.inf)},
            "sent centroids with values that are not finite",
        ),
        (
            {"head.linear.bias": torch.zeros(3).bfloat16()},
            "sent head.linear.bias as torch.bfloat16, expected torch.float32",
        ),
        ({"centroids": None}, f"sent {HEAD}, expected {['centroids', *HEAD]}"),
        (
            {"extra": torch.zeros(1)},
            f"sent {['centroids', 'extra', *HEAD]}, expected {['centroids', *HEAD]}",
        ),
    ],
)
def test_tensors_of_a_state_are_checked(state, tensors, message):
    packet = changed(pack_state(state, REQUEST, FEDAVG), tensors)
    assert refused(unpack_state, packet, CONFIG, FEDAVG, 4).endswith(message)


def test_a_server_is_not_called_a_client(state):
    packet = changed(pack_state(state, REQUEST, FEDAVG), {"centroids": None})
    assert refused(unpack_state, packet, CONFIG, FEDAVG, 4).startswith("the server sent [")


def test_a_part_that_stays_with_the_sites_is_not_taken_from_the_server(state):
    own_heads = replace(FEDAVG, aggregate_heads=False)
    packet = pack_state(state, REQUEST, FEDAVG)
    assert refused(unpack_state, packet, CONFIG, own_heads, 4).endswith("expected ['centroids']")


def receive(packet, state, task="train", federation=FEDAVG):
    expected = expected_tensors(state, federation, task)
    sent = narrow_expected(expected, state.model.head, federation)
    return unpack_update(packet, "north", sent, task, federation)


def test_a_trained_model_arrives_as_it_was_sent(state, same_bits):
    update = ClientUpdate("north", 6, state.model.head, state.model.centroids, loss=0.25)
    packet = pack_update(update, REQUEST)
    assert packet.fields == {**REQUEST.fields(), "state": "done", "num_images": 6, "loss": 0.25}
    found = receive(packet, state)
    assert same_bits(Model(found.head, found.centroids), state.model)
    assert (found.client_id, found.num_images, found.loss) == ("north", 6, 0.25)
    assert (found.usage, found.code_sums, found.moments) == (None, None, None)


def test_the_name_is_that_of_the_key_and_not_what_the_answer_says(state):
    update = ClientUpdate("south", 6, state.model.head, state.model.centroids, loss=0.25)
    packet = changed(pack_update(update, REQUEST), client_id="south", site="south")
    assert receive(packet, state).client_id == "north"


def test_changes_of_a_head_travel_up_as_bfloat16(state):
    halved = replace(FEDAVG, wire="bfloat16")
    trained = {name: part + 2**-12 for name, part in state.model.head.items()}
    update = ClientUpdate("north", 6, trained, state.model.centroids, loss=0.25)
    sent = narrow_update(update, state.model.head, "bfloat16")
    packet = pack_update(sent, REQUEST)
    assert packet.tensors["linear.weight"].dtype == torch.bfloat16
    found = receive(packet, state, federation=halved)
    assert found.head.keys() == sent.head.keys()
    assert all(torch.equal(found.head[name], sent.head[name]) for name in sent.head)


def test_consensus_gets_counts_and_cosines_besides(state):
    consensus = replace(FEDAVG, strategy="consensus")
    usage = CentroidUsage(torch.tensor([5, 0]), torch.tensor([0.5, 0.0]).double())
    head, centroids = state.model.head, state.model.centroids
    update = ClientUpdate("north", 6, head, centroids, loss=0.25, usage=usage)
    found = receive(pack_update(update, REQUEST), state, federation=consensus)
    assert found.usage.counts.tolist() == [5, 0]
    assert found.usage.cosines.tolist() == [0.5, 0.0]
    assert found.head.keys() == head.keys()
    assert torch.equal(found.centroids, centroids)


def test_sums_of_codes_arrive_as_they_were_sent(state):
    sums = CodeSums(torch.tensor([[1.0, 0.0, 2.0], [0.1, 0.2, 0.3]]).double(), torch.tensor([4, 1]))
    packet = pack_update(ClientUpdate("north", 6, code_sums=sums), REQUEST)
    assert sorted(packet.tensors) == ["counts", "sums"]
    assert "loss" not in packet.fields
    found = receive(packet, state, "lloyd")
    assert torch.equal(found.code_sums.sums, sums.sums)
    assert torch.equal(found.code_sums.counts, sums.counts)
    assert (found.head, found.centroids, found.loss) == (None, None, None)


def test_where_clients_finish_alone_nothing_but_their_count_is_sent(state):
    own_heads = replace(FEDAVG, aggregate_heads=False)
    packet = pack_update(ClientUpdate("north", 6), REQUEST)
    assert packet.tensors == {}
    assert receive(packet, state, "lloyd", own_heads) == ClientUpdate("north", 6)


def test_moments_arrive_as_they_were_sent(state):
    moments = FeatureMoments(
        torch.arange(16.0).reshape(4, 4).double(), torch.arange(4.0).double(), torch.tensor(9)
    )
    found = receive(
        pack_update(ClientUpdate("north", 6, moments=moments), REQUEST), state, "moments"
    )
    assert torch.equal(found.moments.second, moments.second)
    assert torch.equal(found.moments.first, moments.first)
    assert found.moments.count.tolist() == 9


@pytest.mark.parametrize(
    ("heads", "centroids", "names"),
    [
        (False, True, ["centroids"]),
        (True, False, [name.removeprefix("head.") for name in HEAD]),
        (False, False, []),
    ],
)
def test_only_shared_parts_are_read(state, heads, centroids, names):
    federation = replace(FEDAVG, aggregate_heads=heads, aggregate_centroids=centroids)
    update = ClientUpdate(
        "north",
        6,
        state.model.head if heads else None,
        state.model.centroids if centroids else None,
        loss=0.25,
    )
    packet = pack_update(update, REQUEST)
    assert sorted(packet.tensors) == names
    found = receive(packet, state, federation=federation)
    assert (found.head is not None, found.centroids is not None) == (heads, centroids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 0}, "field 'num_images' must be 1 to 9007199254740992, got 0"),
        ({"num_images": None}, "field 'num_images' must be a whole number, got None"),
        ({"loss": None}, "field 'loss' must be a finite number, got None"),
        ({"loss": float("inf")}, "field 'loss' must be a finite number, got inf"),
        (
            {"tensors": {"centroids": torch.full((2, 3), torch.nan)}},
            "client 'north' sent centroids with values that are not finite",
        ),
        (
            {"tensors": {"centroids": torch.zeros(2)}},
            "client 'north' sent centroids of shape (2,), expected (2, 3)",
        ),
    ],
)
def test_an_update_is_checked(state, change, message):
    update = ClientUpdate("north", 6, state.model.head, state.model.centroids, loss=0.25)
    packet = changed(pack_update(update, REQUEST), **change)
    assert refused(receive, packet, state) == message


def test_negative_counts_are_refused(state):
    sums = CodeSums(torch.zeros(2, 3).double(), torch.tensor([4, -1]))
    packet = pack_update(ClientUpdate("north", 6, code_sums=sums), REQUEST)
    assert refused(receive, packet, state, "lloyd") == "client 'north' sent counts below 0, got -1"


def test_a_hello_arrives_as_it_was_sent():
    packet = pack_hello(HELLO, "0" * 64, "run1")
    assert packet.fields == {
        "task": "hello",
        "round": 0,
        "run": "run1",
        "offer": "0" * 64,
        "state": "done",
        "num_images": 3,
        "feature_count": 12,
        "fingerprint": "f" * 64,
        "version": VERSION,
        "shift_0": 0.1,
        "shift_1": -0.2,
        "shift_2": 2.0,
    }
    found = unpack_hello(packet, "north", 2, shifts=True)
    assert torch.equal(found.feature_sum, HELLO.feature_sum)
    assert replace(found, feature_sum=HELLO.feature_sum) == HELLO


def test_a_hello_without_shifts_is_enough_where_they_are_given():
    packet = pack_hello(replace(HELLO, shift=None), "0" * 64, "run1")
    assert "shift_0" not in packet.fields
    assert unpack_hello(packet, "north", 2, shifts=False).shift is None
    assert unpack_hello(pack_hello(HELLO, "", ""), "north", 2, shifts=False).shift is None
    assert refused(unpack_hello, packet, "north", 2, shifts=True) == (
        "field 'shift_0' must be a finite number, got None"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 1}, "field 'num_images' must be 2 to 9007199254740992, got 1"),
        ({"feature_count": 1}, "field 'feature_count' must be 2 to 9007199254740992, got 1"),
        ({"fingerprint": None}, "field 'fingerprint' must be a word, got None"),
        ({"version": 1}, "field 'version' must be a word, got 1"),
        (
            {"shift_1": -2.5},
            "client 'north' sent the shifts [0.1, -2.5, 2.0], each must lie in [-2, 2]",
        ),
        ({"tensors": {"feature_sum": None}}, "client 'north' sent [], expected ['feature_sum']"),
        (
            {"tensors": {"feature_sum": torch.zeros(2)}},
            "client 'north' sent feature_sum as torch.float32, expected torch.float64",
        ),
        (
            {"tensors": {"feature_sum": torch.zeros(3).double()}},
            "client 'north' sent feature_sum of shape (3,), expected (2,)",
        ),
    ],
)
def test_a_hello_is_checked(change, message):
    packet = changed(pack_hello(HELLO, "0" * 64, "run1"), **change)
    assert refused(unpack_hello, packet, "north", 2, shifts=True) == message
