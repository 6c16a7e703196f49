from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import FederationError
from fusseg.core.version import VERSION
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import (
    Request,
    check_answers,
    find_task,
    pack_hello,
    pack_task,
    pack_update,
    read_request,
    unpack_hello,
    unpack_task,
    unpack_update,
)
from fusseg.deployment.wire.received import LackError
from fusseg.federation.head_precision import narrow_parts, narrow_update
from fusseg.federation.parts import name_head, take_head
from fusseg.federation.protocol import sent_parts
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import ClientUpdate, GlobalState, Hello
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import make_delivery
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

REQUEST = Request("run1", "0" * 64, "train", 3, 0)
HEAD = [
    "head.hidden.bias",
    "head.hidden.weight",
    "head.linear.bias",
    "head.linear.weight",
    "head.output.bias",
    "head.output.weight",
]
SHIFTS = {"shift_self": 0.1, "shift_neighbor": -0.2, "shift_random": 0.3}
PLAN = TrainingPlan(7, torch.tensor([1.0, -2.0, 0.5, 3.0]), SHIFTS)
HELLO = Hello(
    client_id="north",
    num_images=3,
    feature_sum=torch.tensor([1.5, -2.5], dtype=torch.float64),
    feature_count=12,
    numbers={"shift_self": 0.1, "shift_neighbor": -0.2, "shift_random": 2.0},
    fingerprint="f" * 64,
    version=VERSION,
    feature_spread=1.5,
)


def settle(strategy="fedavg", local=None, init="random", **federation):
    """Rules for three rounds of training, two clusters and codes of three channels."""
    return resolve(
        Config(
            seed=5,
            model=ModelConfig(init=init, init_steps=2, num_clusters=2, code_dim=3),
            local=local or LocalConfig(),
            federation=FederationConfig(strategy=strategy, rounds=3, **federation),
        )
    )


FEDAVG = settle()
LLOYD = settle("lloyd")
PCA = settle("pca", init="pca", lloyd_rounds=3)
GIVEN = settle(local=LocalConfig(tables={"stego": {"shift": [0.1, -0.2, 0.3]}}))


def task_of(protocol, name="train"):
    """The task of a name; None where the model is scored or kept."""
    found = {task.name: task for number in (0, 1, 2, 3) for task in protocol.tasks(number)}
    return found.get(name)


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


@pytest.mark.parametrize(
    ("protocol", "task", "number", "place"),
    [
        (FEDAVG, "train", 3, 0),
        (LLOYD, "lloyd", 1, 3),
        (PCA, "moments", 0, 0),
        (PCA, "lloyd", 0, 1),
        (PCA, "lloyd", 0, 2),
        (PCA, "lloyd", 3, 0),
    ],
)
def test_a_task_is_that_of_its_round_and_place(protocol, task, number, place):
    request = replace(REQUEST, task=task, round_number=number, place=place)
    assert find_task(request, protocol, at_sites=False) is protocol.tasks(number)[place]


@pytest.mark.parametrize("number", [1, 3])
def test_the_model_is_kept_always_and_scored_where_that_was_agreed_on(number):
    finish = replace(REQUEST, task="finish", round_number=number)
    evaluate = replace(finish, task="evaluate")
    assert find_task(finish, FEDAVG, at_sites=False) is None
    assert find_task(evaluate, FEDAVG, at_sites=True) is None
    assert "hold no task 'evaluate'" in refused(find_task, evaluate, FEDAVG, at_sites=False)


@pytest.mark.parametrize(
    ("task", "number", "place"),
    [
        ("hello", 1, 0),
        ("Train", 1, 0),
        ("", 1, 0),
        ("lloyd", 1, 0),
        ("lloyd", 1, 4),
        ("train", 1, 1),
        ("train", 4, 0),
        ("finish", 4, 0),
        ("moments", 1, 0),
        ("train", 2**53, 0),
        ("train", 1, 2**53),
    ],
)
def test_what_the_agreed_settings_do_not_hold_is_refused(task, number, place):
    request = replace(REQUEST, task=task, round_number=number, place=place)
    message = refused(find_task, request, LLOYD, at_sites=True)
    assert f"hold no task {task!r} in round {number} at place {place}" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": None}, "field 'task' must be a word, got None"),
        ({"version": "0.0.0"}, f"field 'version' must be {VERSION!r}, got '0.0.0'"),
        ({"run": None}, "field 'run' must be a word, got None"),
        ({"offer": 3}, "field 'offer' must be a word, got 3"),
        ({"round": -1}, "field 'round' must be 0 to 9007199254740992, got -1"),
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


def pack(state, protocol=FEDAVG, task="train", held=None):
    """A task for a site that holds bundles by name and digest."""
    delivery = make_delivery(state, task_of(protocol, task), protocol)
    return pack_task(state, replace(REQUEST, task=task), delivery, delivery.news(held or {}))


@pytest.fixture
def unpack(tmp_path):
    """Read a task at a site that keeps what it is sent."""

    def read(packet, protocol=FEDAVG, task="train", dim=4):
        return unpack_task(packet, task_of(protocol, task), protocol, dim, tmp_path)

    return read


def test_a_state_arrives_as_it_was_sent(state, unpack, same_bits):
    packet = pack(state)
    assert sorted(packet.tensors) == ["centroids", *HEAD, "mean_feature"]
    found = unpack(packet)
    assert same_bits(found.model, state.model)
    assert torch.equal(found.plan.mean_feature, PLAN.mean_feature)
    assert (found.plan.num_steps, found.plan.agreed) == (7, SHIFTS)
    assert found.round_number == 2


def test_given_numbers_arrive_with_the_plan_too(state, unpack):
    assert unpack(pack(state, GIVEN), GIVEN).plan.agreed == SHIFTS


def test_plan_and_head_are_named_where_a_site_keeps_them(state, unpack, same_bits):
    first = pack(state)
    held = {name: first.fields[name] for name in ("plan", "head")}
    again = pack(state, held=held)
    assert list(again.tensors) == ["centroids"]
    assert {name: again.fields[name] for name in held} == held
    assert "num_steps" not in again.fields
    assert "shift_self" not in again.fields
    expected = unpack(first)
    found = unpack(again)
    assert same_bits(found.model, expected.model)
    assert torch.equal(found.plan.mean_feature, expected.plan.mean_feature)
    assert (found.plan.num_steps, found.plan.agreed) == (7, SHIFTS)


def test_what_the_servers_optimizer_keeps_is_not_packed(state):
    kept = {"velocity": {name: part.double() for name, part in state.model.head.items()}}
    packet, plain = pack(replace(state, optimizer=kept)), pack(state)
    assert packet.fields == plain.fields
    assert packet.tensors.keys() == plain.tensors.keys()


def test_the_last_head_that_came_is_the_one_that_is_kept(state, unpack, same_bits):
    first = pack(state)
    held = {name: first.fields[name] for name in ("plan", "head")}
    moved = replace(
        state,
        model=replace(state.model, head={k: v + 1 for k, v in state.model.head.items()}),
    )
    unpack(first)
    unpack(pack(moved, held=held))
    held["head"] = pack(moved).fields["head"]
    assert same_bits(unpack(pack(moved, held=held)).model, moved.model)
    held["head"] = first.fields["head"]
    with pytest.raises(LackError, match="does not have the head any more"):
        unpack(pack(state, held=held))


@pytest.mark.parametrize("name", ["plan", "head"])
@pytest.mark.parametrize("lose", ["remove", "cut", "damage", "replace", "bare"])
def test_what_a_site_lost_it_lacks(name, lose, state, unpack, tmp_path):
    first = pack(state)
    unpack(first)
    path = tmp_path / "received" / f"{name}.safetensors"
    other = tmp_path / "received" / f"{'head' if name == 'plan' else 'plan'}.safetensors"
    content = path.read_bytes()
    if lose == "remove":
        path.unlink()
    elif lose == "bare":
        save_file({"mean_feature": PLAN.mean_feature}, path)
    else:
        last = bytes([content[-1] ^ 1])
        found = {"cut": content[:9], "damage": content[:-1] + last, "replace": other.read_bytes()}
        path.write_bytes(found[lose])
    held = {part: first.fields[part] for part in ("plan", "head")}
    with pytest.raises(LackError, match=f"does not have the {name} any more"):
        unpack(pack(state, held=held))
    # Once it is sent again all is as before.
    unpack(pack(state))
    assert path.read_bytes() == content


def test_what_was_kept_under_other_settings_is_checked_anew(state, unpack):
    """The same run, and a server that offers other settings in its course."""
    first = pack(state)
    unpack(first)
    held = {name: first.fields[name] for name in ("plan", "head")}
    again = pack(state, held=held)
    longer = replace(FEDAVG, code_dim=5)
    tensors = {"centroids": torch.zeros(2, 5)}
    message = refused(unpack, changed(again, tensors), longer)
    assert "the server sent head." in message
    assert "of shape" in message
    assert "sent mean_feature of shape (4,), expected (3,)" in refused(unpack, again, dim=3)


def test_changed_content_does_not_have_the_digest_that_is_named(state, unpack, tmp_path):
    packet = pack(state)
    for name, tensors, fields in (
        ("plan", {"mean_feature": torch.zeros(4)}, {}),
        ("plan", {}, {"num_steps": 8}),
        ("plan", {}, {"shift_random": 0.4}),
        ("plan", {}, {"plan": "0" * 32}),
        ("head", {"head.linear.bias": torch.zeros(3)}, {}),
        ("head", {}, {"head": "0" * 32}),
        ("head", {}, {"head": "x" * 60_000}),
    ):
        message = refused(unpack, changed(packet, tensors, **fields))
        assert message.startswith(f"the server sent a {name} with the digest ")
        assert len(message) < 300
        assert not (tmp_path / "received" / f"{name}.safetensors").exists()
        (tmp_path / "received" / "plan.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["plan", "head"])
@pytest.mark.parametrize("value", [None, 3, 2**62, 0.5, float("nan")])
def test_digests_are_words(name, value, state, unpack):
    message = refused(unpack, changed(pack(state), **{name: value}))
    assert f"field {name!r} must be a word" in message


@pytest.mark.parametrize(
    "digest", ["", "0" * 32, "../head", "/etc/passwd", "x" * 65_536, "\x1b[2J"]
)
@pytest.mark.parametrize("name", ["plan", "head"])
def test_a_site_lacks_what_nobody_sent_it(name, digest, state, unpack):
    held = {part: pack(state).fields[part] for part in ("plan", "head")}
    unpack(pack(state))
    with pytest.raises(LackError):
        unpack(changed(pack(state, held=held), **{name: digest}))


@pytest.mark.parametrize(
    ("task", "finished"),
    [("train", 2), ("lloyd", 2), ("evaluate", 3), ("finish", 3)],
)
def test_a_task_names_its_round_and_the_scores_one_that_is_finished(task, finished, state, unpack):
    packet = pack(state, LLOYD, task)
    assert unpack(packet, LLOYD, task).round_number == finished


def test_the_moments_need_no_part_of_the_model(state, unpack, same_bits):
    packet = pack(state, PCA, "moments")
    assert sorted(packet.tensors) == ["mean_feature"]
    assert "head" not in packet.fields
    assert same_bits(unpack(packet, PCA, "moments").model, initial_state(PCA, PLAN).model)


def test_what_is_not_shared_is_not_sent_and_is_that_of_round_0(state, unpack, same_bits):
    start = initial_state(FEDAVG, PLAN).model
    own_heads = settle(aggregate_heads=False)
    packet = pack(state, own_heads)
    assert sorted(packet.tensors) == ["centroids", "mean_feature"]
    found = unpack(packet, own_heads)
    assert same_bits(found.model, Model(start.head, state.model.centroids))

    own_centroids = settle(aggregate_centroids=False)
    packet = pack(state, own_centroids)
    assert sorted(packet.tensors) == [*HEAD, "mean_feature"]
    found = unpack(packet, own_centroids)
    assert same_bits(found.model, Model(state.model.head, start.centroids))

    neither = settle(aggregate_heads=False, aggregate_centroids=False)
    packet = pack(state, neither)
    assert sorted(packet.tensors) == ["mean_feature"]
    assert same_bits(unpack(packet, neither).model, start)


def test_heads_travel_down_rounded_to_bfloat16(state, unpack):
    halved = settle(wire="bfloat16")
    # Of the 24 binary digits of 1 + 2^-8 + 2^-20 eight are kept, rounded up past the half.
    state.model.head["linear.bias"][:] = 1 + 2**-8 + 2**-20
    packet = pack(state, halved)
    assert {packet.tensors[name].dtype for name in HEAD} == {torch.bfloat16}
    assert packet.tensors["centroids"].dtype == torch.float32
    held = {name: packet.fields[name] for name in ("plan", "head")}
    for sent in (packet, pack(state, halved, held=held)):
        found = unpack(sent, halved)
        assert found.model.head["linear.bias"].tolist() == [1 + 2**-7] * 3
        assert found.model.head["linear.bias"].dtype == torch.float32
        assert torch.equal(found.model.centroids, state.model.centroids)


@pytest.mark.parametrize("protocol", [FEDAVG, GIVEN])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "field 'num_steps' must be 1 to 1000000000, got 0"),
        ({"num_steps": 10**9 + 1}, "field 'num_steps' must be 1 to 1000000000, got 1000000001"),
        ({"num_steps": 1.0}, "field 'num_steps' must be a whole number, got 1.0"),
        ({"num_steps": None}, "field 'num_steps' must be a whole number, got None"),
        ({"num_steps": float("nan")}, "field 'num_steps' must be a whole number, got nan"),
        ({"shift_self": None}, "field 'shift_self' must be a finite number, got None"),
        ({"shift_neighbor": 1}, "field 'shift_neighbor' must be a finite number, got 1"),
        ({"shift_random": float("nan")}, "field 'shift_random' must be a finite number, got nan"),
        ({"shift_random": "0.3"}, "field 'shift_random' must be a finite number, got '0.3'"),
        ({"shift_self": -1e300}, "which nothing can use"),
        ({"round": -1}, "field 'round' must be 0 to 9007199254740992, got -1"),
    ],
)
def test_fields_of_a_state_are_checked(protocol, change, message, state, unpack):
    packet = changed(pack(state, protocol), **change)
    assert message in refused(unpack, packet, protocol)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
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
        ({"head.linear.bias": torch.zeros(4)}, "sent head.linear.bias of shape (4,), expected"),
        ({"head.linear.bias": None}, f"expected {['centroids', *HEAD, 'mean_feature']}"),
        ({"centroids": None}, f"expected {['centroids', *HEAD, 'mean_feature']}"),
        ({"extra": torch.zeros(1)}, f"expected {['centroids', *HEAD, 'mean_feature']}"),
        ({"head.extra": torch.zeros(1)}, f"expected {['centroids', *HEAD, 'mean_feature']}"),
    ],
)
def test_tensors_of_a_state_are_checked(tensors, message, state, unpack, tmp_path):
    assert message in refused(unpack, changed(pack(state), tensors))
    assert not (tmp_path / "received").exists()


def test_a_server_is_not_called_a_client(state, unpack):
    packet = changed(pack(state), {"centroids": None})
    assert refused(unpack, packet).startswith("the server sent [")


def test_a_part_that_stays_with_the_sites_is_not_taken_from_the_server(state, unpack):
    own_heads = settle(aggregate_heads=False)
    expected = "expected ['centroids', 'mean_feature']"
    assert refused(unpack, pack(state), own_heads).endswith(expected)


def receive(packet, state, name="train", protocol=FEDAVG):
    task = task_of(protocol, name)
    parts = narrow_parts(sent_parts(task, state, protocol), protocol.wire)
    return unpack_update(packet, "north", parts, task)


def trained(state, **more):
    """An update of a site whose training changed nothing."""
    model = state.model
    parts = {**name_head(model.head), "centroids": model.centroids, **more}
    return ClientUpdate("north", 6, 0.25, parts)


def same_parts(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_a_trained_model_arrives_as_it_was_sent(state):
    packet = pack_update(trained(state), REQUEST)
    assert packet.fields == {**REQUEST.fields(), "state": "done", "num_images": 6, "loss": 0.25}
    found = receive(packet, state)
    assert sorted(found.parts) == ["centroids", *HEAD]
    assert same_parts(found.parts, trained(state).parts)
    assert (found.client_id, found.num_images, found.loss) == ("north", 6, 0.25)


def test_the_name_is_that_of_the_key_and_not_what_the_answer_says(state):
    update = replace(trained(state), client_id="south")
    packet = changed(pack_update(update, REQUEST), client_id="south", site="south")
    assert receive(packet, state).client_id == "north"


def test_changes_of_a_head_travel_up_as_bfloat16(state):
    halved = settle(wire="bfloat16")
    moved = {name: part + 2**-12 for name, part in name_head(state.model.head).items()}
    parts = sent_parts(task_of(halved), state, halved)
    sent = narrow_update(trained(state, **moved), parts, state.model.head, "bfloat16")
    packet = pack_update(sent, REQUEST)
    assert packet.tensors["head.linear.weight"].dtype == torch.bfloat16
    assert packet.tensors["centroids"].dtype == torch.float32
    found = receive(packet, state, protocol=halved)
    assert same_parts(found.parts, sent.parts)
    assert take_head(found.parts).keys() == state.model.head.keys()


def test_consensus_gets_counts_and_cosines_besides(state):
    counts, cosines = torch.tensor([5, 0]), torch.tensor([0.5, 0.0]).double()
    update = trained(state, counts=counts, cosines=cosines)
    found = receive(pack_update(update, REQUEST), state, protocol=settle("consensus"))
    assert found.parts["counts"].tolist() == [5, 0]
    assert found.parts["cosines"].tolist() == [0.5, 0.0]
    assert same_parts(found.parts, update.parts)


def summed(counts=(4, 1)):
    sums = torch.tensor([[1.0, 0.0, 2.0], [0.1, 0.2, 0.3]]).double()
    return ClientUpdate("north", 6, parts={"sums": sums, "counts": torch.tensor(counts)})


def test_sums_of_codes_arrive_as_they_were_sent(state):
    packet = pack_update(summed(), REQUEST)
    assert sorted(packet.tensors) == ["counts", "sums"]
    assert "loss" not in packet.fields
    found = receive(packet, state, "lloyd", LLOYD)
    assert same_parts(found.parts, summed().parts)
    assert found.loss is None


def test_where_clients_finish_alone_nothing_but_their_count_is_sent(state):
    own_heads = settle(aggregate_heads=False, lloyd_rounds=1)
    packet = pack_update(ClientUpdate("north", 6), REQUEST)
    assert packet.tensors == {}
    (step,) = own_heads.tasks(4)
    parts = sent_parts(step, state, own_heads)
    assert unpack_update(packet, "north", parts, step) == ClientUpdate("north", 6)


def test_moments_arrive_as_they_were_sent(state):
    moments = {
        "second": torch.arange(16.0).reshape(4, 4).double(),
        "first": torch.arange(4.0).double(),
        "count": torch.tensor(9),
    }
    packet = pack_update(ClientUpdate("north", 6, parts=moments), REQUEST)
    assert same_parts(receive(packet, state, "moments", PCA).parts, moments)


@pytest.mark.parametrize(
    ("heads", "centroids", "names"),
    [(False, True, ["centroids"]), (True, False, HEAD), (False, False, [])],
)
def test_only_shared_parts_are_read(heads, centroids, names, state):
    protocol = settle(aggregate_heads=heads, aggregate_centroids=centroids)
    whole = trained(state)
    update = replace(whole, parts={name: whole.parts[name] for name in names})
    packet = pack_update(update, REQUEST)
    assert sorted(packet.tensors) == names
    assert sorted(receive(packet, state, protocol=protocol).parts) == names
    assert "expected" in refused(receive, pack_update(whole, REQUEST), state, protocol=protocol)


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
    packet = changed(pack_update(trained(state), REQUEST), **change)
    assert refused(receive, packet, state) == message


def test_negative_counts_are_refused(state):
    packet = pack_update(summed((4, -1)), REQUEST)
    message = refused(receive, packet, state, "lloyd", LLOYD)
    assert message == "client 'north' sent counts with a value below 0: -1"


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
        "feature_spread": 1.5,
        "shift_self": 0.1,
        "shift_neighbor": -0.2,
        "shift_random": 2.0,
    }
    found = unpack_hello(packet, "north", 2, FEDAVG)
    assert torch.equal(found.feature_sum, HELLO.feature_sum)
    assert replace(found, feature_sum=HELLO.feature_sum) == HELLO


def test_a_hello_without_numbers_is_enough_where_they_are_given():
    packet = pack_hello(replace(HELLO, numbers={}), "0" * 64, "run1")
    assert "shift_self" not in packet.fields
    assert unpack_hello(packet, "north", 2, GIVEN).numbers == {}
    assert unpack_hello(pack_hello(HELLO, "", ""), "north", 2, GIVEN).numbers == {}
    assert refused(unpack_hello, packet, "north", 2, FEDAVG) == (
        "field 'shift_self' must be a finite number, got None"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 1}, "field 'num_images' must be 2 to 9007199254740992, got 1"),
        ({"feature_count": 1}, "field 'feature_count' must be 2 to 9007199254740992, got 1"),
        ({"fingerprint": None}, "field 'fingerprint' must be a word, got None"),
        ({"version": 1}, "field 'version' must be a word, got 1"),
        ({"feature_spread": 1}, "field 'feature_spread' must be a finite number, got 1"),
        (
            {"shift_neighbor": -2.5},
            "client 'north' sent shift_neighbor of -2.5, must lie in [-2, 2]",
        ),
        ({"shift_self": 1e308}, "client 'north' sent shift_self of 1e+308, must lie in [-2, 2]"),
        ({"shift_self": float("nan")}, "field 'shift_self' must be a finite number, got nan"),
        ({"shift_self": 1}, "field 'shift_self' must be a finite number, got 1"),
        ({"shift_self": "0.1"}, "field 'shift_self' must be a finite number, got '0.1'"),
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
    assert refused(unpack_hello, packet, "north", 2, FEDAVG) == message
