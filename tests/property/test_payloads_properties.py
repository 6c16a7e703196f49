import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fusseg.config.schema import Config, FederationConfig, LocalConfig, ModelConfig
from fusseg.core.errors import ConfigError, FederationError
from fusseg.core.version import VERSION
from fusseg.deployment.wire.ledger import describe_message
from fusseg.deployment.wire.offer import make_offer, pack_offer, unpack_offer
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
from fusseg.deployment.wire.raw_tensors import DTYPES, dtype_name, from_bytes, to_bytes
from fusseg.deployment.wire.received import LackError
from fusseg.federation.head_precision import (
    narrow_parts,
    narrow_update,
    receive_state,
    widen_update,
)
from fusseg.federation.protocol import sent_parts
from fusseg.federation.rounds import initial_state
from fusseg.federation.state import ClientUpdate, GlobalState, Hello
from fusseg.federation.strategies import STRATEGIES, resolve
from fusseg.federation.traffic import make_delivery, needs
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

CONFIG = Config(model=ModelConfig(init="random", num_clusters=5, code_dim=3))
GIVEN = LocalConfig(tables={"stego": {"shift": [0.1, 0.2, 0.3]}})
SHIFTS = ("shift_self", "shift_neighbor", "shift_random")
DIM = 4
finite = st.floats(allow_nan=False, allow_infinity=False)
usable = st.floats(-1e30, 1e30)
federations = st.builds(
    FederationConfig,
    strategy=st.sampled_from(sorted(STRATEGIES)),
    rounds=st.just(1),
    lloyd_rounds=st.just(2),
    aggregate_heads=st.booleans(),
    aggregate_centroids=st.booleans(),
    wire=st.sampled_from(["float32", "bfloat16"]),
)
seeds = st.integers(0, 2**31)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def tensors(draw, names=tuple(DTYPES)):
    """Tensors of any bits."""
    dtype, shape = draw(st.sampled_from(names)), draw(shapes)
    size = math.prod(shape) * DTYPES[dtype].itemsize
    content = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    return content.view(DTYPES[dtype]).reshape(shape)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
fields = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), words)


exchanges = st.tuples(federations, st.integers(0, 5), st.integers(0, 11))


def settle(exchange):
    """The rules of a federation, and a task of one of its rounds."""
    federation, number, place = exchange
    try:
        protocol = resolve(replace(CONFIG, federation=federation))
    except ConfigError:
        assume(False)
    tasks = protocol.tasks(1 + number % protocol.num_rounds)
    return protocol, tasks[place % len(tasks)]


def carry(packet):
    """Write a packet's tensors as bytes and read them again."""
    return Packet(
        dict(packet.fields),
        {
            name: from_bytes(name, dtype_name(tensor), tuple(tensor.shape), to_bytes(tensor))
            for name, tensor in packet.tensors.items()
        },
    )


def bits(named):
    return {
        name: (str(part.dtype), tuple(part.shape), to_bytes(part)) for name, part in named.items()
    }


def draw_state(seeded, seed, round_number=2, shifts=(0.1, 0.2, 0.3), num_steps=7):
    generator = seeded(seed)
    model = Model(initial_head(DIM, 3, generator), torch.randn(5, 3, generator=generator))
    agreed = dict(zip(SHIFTS, shifts, strict=True))
    plan = TrainingPlan(num_steps, torch.randn(DIM, generator=generator), agreed)
    return GlobalState(round_number, model, plan)


def draw_update(seeded, seed, state, task, protocol):
    """An update with all that is expected, and random numbers in it."""
    generator = seeded(seed)
    drawn = {}
    for name, part in sent_parts(task, state, protocol).items():
        if part.dtype == torch.int64:
            drawn[name] = torch.randint(0, 2**40, part.shape, generator=generator)
        else:
            drawn[name] = torch.randn(part.shape, generator=generator, dtype=part.dtype)
    return ClientUpdate("north", 1 + seed % 1000, seed / 7 if task.trains else None, drawn)


def narrowed(update, state, task, protocol):
    """An update as it travels, of a site that received the state unrounded."""
    parts = sent_parts(task, state, protocol)
    return narrow_update(update, parts, state.model.head, protocol.wire)


def receive(packet, state, task, protocol):
    parts = narrow_parts(sent_parts(task, state, protocol), protocol.wire)
    return unpack_update(packet, "north", parts, task)


def request_of(task, round_number=3):
    return Request("run1", "0" * 64, "evaluate" if task is None else task.name, round_number, 0)


def pack(state, task, protocol, held=None):
    number = state.round_number + (0 if task is None else 1)
    delivery = make_delivery(state, task, protocol)
    return pack_task(state, request_of(task, number), delivery, delivery.news(held or {}))


def unpack(packet, task, protocol, folder=None):
    """Read a task at a site that keeps what it was sent in a folder, or has got nothing yet."""
    if folder is not None:
        return unpack_task(packet, task, protocol, DIM, folder)
    with tempfile.TemporaryDirectory() as empty:
        return unpack_task(packet, task, protocol, DIM, Path(empty))


@given(tensors())
def test_any_tensor_survives_as_bytes(tensor):
    found = from_bytes("w", dtype_name(tensor), tuple(tensor.shape), to_bytes(tensor))
    assert bits({"w": found}) == bits({"w": tensor})


@given(
    dtype=st.sampled_from([*DTYPES, "float16", ""]),
    shape=st.lists(st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    content=st.binary(max_size=64),
)
def test_any_bytes_are_a_tensor_or_refused(dtype, shape, content):
    try:
        found = from_bytes("w", dtype, shape, content)
    except FederationError:
        return
    assert bits({"w": found}) == {"w": (f"torch.{dtype}", tuple(shape), content)}


@given(exchange=exchanges, seed=seeds)
def test_any_update_of_any_strategy_arrives_in_the_same_bits(exchange, seed, seeded):
    protocol, task = settle(exchange)
    state = draw_state(seeded, 1)
    update = draw_update(seeded, seed, state, task, protocol)
    sent = narrowed(update, state, task, protocol)
    packet = carry(pack_update(sent, request_of(task)))
    check_answers(packet, request_of(task))
    found = receive(packet, state, task, protocol)
    assert bits(found.parts) == bits(sent.parts)
    assert (found.client_id, found.num_images, found.loss) == (
        "north",
        update.num_images,
        update.loss,
    )
    # And what the server makes of it is what a simulation does.
    parts = sent_parts(task, state, protocol)
    left, right = (widen_update(one, parts, protocol.wire) for one in (found, sent))
    assert bits(left.parts) == bits(right.parts)


@given(
    exchange=exchanges,
    seed=seeds,
    plan=st.tuples(st.integers(0, 10**6), st.tuples(usable, usable, usable), st.integers(1, 10**9)),
    again=st.booleans(),
)
def test_any_state_arrives_as_a_simulated_client_has_it(
    exchange, seed, plan, again, seeded, same_bits
):
    """Also where the site has got plan and head before."""
    round_number, shifts, num_steps = plan
    protocol, task = settle(exchange)
    state = draw_state(seeded, seed, *plan)
    packet = carry(pack(state, task, protocol))
    assert read_request(packet) == request_of(task, round_number + 1)
    with tempfile.TemporaryDirectory() as folder:
        found = unpack(packet, task, protocol, Path(folder))
        if again:
            held = {name: packet.fields[name] for name in ("plan", "head") if name in packet.fields}
            packet = carry(pack(state, task, protocol, held))
            assert packet.tensors.keys() <= {"centroids"}
            found = unpack(packet, task, protocol, Path(folder))
    start = initial_state(protocol, state.plan).model
    received = receive_state(state, protocol.wire).model
    needs_head, needs_centroids = needs(task, protocol)
    expected = Model(
        received.head if needs_head else start.head,
        received.centroids if needs_centroids else start.centroids,
    )
    assert same_bits(found.model, expected)
    assert torch.equal(found.plan.mean_feature, state.plan.mean_feature)
    assert found.plan.num_steps == num_steps
    assert found.plan.agreed == dict(zip(SHIFTS, shifts, strict=True))
    assert found.round_number == round_number


@given(
    total=st.lists(finite, min_size=DIM, max_size=DIM),
    shifts=st.none() | st.tuples(*[st.floats(-2, 2)] * 3),
    counts=st.tuples(st.integers(2, 2**53), st.integers(2, 2**53)),
    fingerprint=words,
)
def test_any_hello_arrives_as_it_was_said(total, shifts, counts, fingerprint):
    feature_sum = torch.tensor(total, dtype=torch.float64)
    numbers = {} if shifts is None else dict(zip(SHIFTS, shifts, strict=True))
    hello = Hello("north", counts[0], feature_sum, counts[1], numbers, fingerprint, VERSION, 1.5)
    packet = carry(pack_hello(hello, "0" * 64, "run1"))
    found = unpack_hello(packet, "north", DIM, hello_protocol(estimated=shifts is not None))
    assert bits({"sum": found.feature_sum}) == bits({"sum": feature_sum})
    assert replace(found, feature_sum=feature_sum) == hello


def hello_protocol(*, estimated):
    return resolve(CONFIG if estimated else replace(CONFIG, local=GIVEN))


@st.composite
def damaged(draw, packet):
    """The packet with some fields and tensors replaced, taken away or added."""
    kept, sent = dict(packet.fields), dict(packet.tensors)
    for name in draw(st.lists(st.sampled_from([*sorted(kept), "more"]), max_size=2)):
        kept[name] = draw(fields)
    for name in draw(st.lists(st.sampled_from(sorted(kept)), max_size=1)):
        del kept[name]
    for name in draw(st.lists(st.sampled_from([*sorted(sent), "more"]), max_size=2)):
        sent[name] = draw(tensors())
    for name in draw(st.lists(st.sampled_from([*sorted(sent), "more"]), max_size=1)):
        sent.pop(name, None)
    return Packet(kept, sent)


def try_to(function, *arguments, **options):
    """Whatever comes in, nothing else is raised."""
    try:
        return function(*arguments, **options)
    except FederationError:
        return None


@given(data=st.data(), exchange=exchanges)
def test_damaged_updates_are_read_or_refused(data, exchange, seeded):
    protocol, task = settle(exchange)
    state = draw_state(seeded, 1)
    update = draw_update(seeded, 2, state, task, protocol)
    sent = narrowed(update, state, task, protocol)
    packet = data.draw(damaged(pack_update(sent, request_of(task))))
    try_to(check_answers, packet, request_of(task))
    found = try_to(receive, packet, state, task, protocol)
    if found is not None:
        assert found.num_images >= 1
        assert all(bool(part.isfinite().all()) for part in found.parts.values())


@given(data=st.data(), exchange=exchanges, score=st.booleans(), again=st.booleans())
def test_damaged_states_are_read_or_refused(data, exchange, score, again, seeded):
    """Also those that count on what the site has, or say that it has got other things."""
    protocol, task = settle(exchange)
    task = None if score else task
    state = draw_state(seeded, 1)
    first = pack(state, task, protocol)
    held = {name: first.fields[name] for name in ("plan", "head") if name in first.fields}
    packet = data.draw(damaged(pack(state, task, protocol, held if again else None)))
    request = try_to(read_request, packet)
    if request is not None:
        try_to(find_task, request, protocol, at_sites=True)
    with tempfile.TemporaryDirectory() as folder:
        unpack(first, task, protocol, Path(folder))
        found = try_to(unpack, packet, task, protocol, Path(folder))
    if found is not None:
        parts = (*found.model.head.values(), found.model.centroids, found.plan.mean_feature)
        assert all(bool(part.isfinite().all()) for part in parts)
        assert found.plan.agreed.keys() == set(SHIFTS)
        assert all(map(math.isfinite, found.plan.agreed.values()))
        # Of plan and head nothing else can come through than what the digests name.
        assert torch.equal(found.plan.mean_feature, state.plan.mean_feature)
        assert found.plan.num_steps == state.plan.num_steps
        if "head" in held:
            expected = receive_state(state, protocol.wire).model.head
            assert bits(found.model.head) == bits(expected)


@given(data=st.data(), exchange=exchanges)
def test_a_site_that_has_got_nothing_lacks_what_is_counted_on(data, exchange, seeded):
    protocol, task = settle(exchange)
    state = draw_state(seeded, 1)
    first = pack(state, task, protocol)
    held = {name: first.fields[name] for name in ("plan", "head") if name in first.fields}
    kept = data.draw(st.lists(st.sampled_from(sorted(held)), min_size=1, unique=True))
    packet = pack(state, task, protocol, {name: held[name] for name in kept})
    with pytest.raises(LackError, match="|".join(kept)):
        unpack(packet, task, protocol)


@given(data=st.data(), estimated=st.booleans())
def test_damaged_hellos_are_read_or_refused(data, estimated):
    numbers = dict(zip(SHIFTS, (0.1, 0.2, 0.3), strict=True))
    hello = Hello("a", 3, torch.zeros(DIM).double(), 12, numbers, "f", VERSION, 1.5)
    packet = data.draw(damaged(pack_hello(hello, "0" * 64, "run1")))
    protocol = hello_protocol(estimated=estimated)
    found = try_to(unpack_hello, packet, "north", DIM, protocol)
    assert found is None or found.client_id == "north"
    if found is not None and estimated:
        assert all(-2 <= number <= 2 for number in found.numbers.values())


@given(data=st.data())
def test_damaged_offers_are_read_or_refused(data):
    offer = make_offer(CONFIG, "run1", "f" * 64, center=True)
    packet = data.draw(damaged(pack_offer(offer)))
    # The digest covers all of it.
    assert try_to(unpack_offer, packet) in (None, offer)


@given(fields=st.dictionaries(words, fields, max_size=4), more=st.data())
def test_any_fields_and_tensors_are_read_or_refused(fields, more, seeded):
    named = more.draw(st.dictionaries(words, tensors(), max_size=2))
    packet, state = Packet(fields, named), draw_state(seeded, 1)
    protocol = resolve(replace(CONFIG, federation=FederationConfig(strategy="consensus")))
    (task,) = protocol.tasks(1)
    assert try_to(unpack_offer, packet) is None
    assert try_to(read_request, packet) is None
    assert try_to(unpack, packet, task, protocol) is None
    assert try_to(unpack_hello, packet, "north", DIM, protocol) is None
    assert try_to(receive, packet, state, task, protocol) is None


@given(data=st.data())
def test_any_message_can_be_entered_in_the_ledger(data):
    """It is entered before anything in it is checked."""
    names = st.sampled_from(["round", "task", "more"])
    sent = data.draw(st.dictionaries(names, fields, max_size=3))
    named = data.draw(st.dictionaries(words, tensors(), max_size=2))
    line = describe_message("north", "to server", named, sent)
    assert line.bytes >= sum(len(to_bytes(part)) for part in named.values())
    assert len(line.sha256) == 64
