import math
from dataclasses import replace

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fusseg.config import Config, FederationConfig, ModelConfig
from fusseg.deployment.ledger import describe_message
from fusseg.deployment.offer import make_offer, pack_offer, unpack_offer
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
from fusseg.deployment.raw_tensors import DTYPES, dtype_name, from_bytes, to_bytes
from fusseg.errors import ConfigError, FederationError
from fusseg.federation.aggregation import expected_tensors
from fusseg.federation.lloyd import CodeSums
from fusseg.federation.moments import FeatureMoments
from fusseg.federation.rounds import initial_state
from fusseg.federation.schedule import LLOYD, PCA
from fusseg.federation.state import CentroidUsage, ClientUpdate, GlobalState, Hello
from fusseg.federation.strategies import STRATEGIES, resolve_federation
from fusseg.federation.wire import narrow_update, receive_state, widen_update
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.training import Model, TrainingPlan
from fusseg.version import VERSION

CONFIG = Config(model=ModelConfig(num_clusters=5, code_dim=3))
DIM = 4
finite = st.floats(allow_nan=False, allow_infinity=False)
federations = st.builds(
    FederationConfig,
    strategy=st.sampled_from([*sorted(STRATEGIES), LLOYD, PCA, "local"]),
    lloyd_rounds=st.just(2),
    aggregate_heads=st.booleans(),
    aggregate_centroids=st.booleans(),
    wire=st.sampled_from(["float32", "bfloat16"]),
)
tasks = st.sampled_from(["train", "lloyd", "moments"])
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


def resolve(federation):
    try:
        return resolve_federation(federation)
    except ConfigError:
        assume(False)


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


def draw_state(seeded, seed, round_number=2, shift=(0.1, 0.2, 0.3), num_steps=7):
    generator = seeded(seed)
    model = Model(initial_head(DIM, 3, generator), torch.randn(5, 3, generator=generator))
    plan = TrainingPlan(num_steps, torch.randn(DIM, generator=generator), shift)
    return GlobalState(round_number, model, plan)


def draw_update(seeded, seed, state, task, federation):
    """An update with all that is expected, and random numbers in it."""
    generator = seeded(seed)
    drawn = {}
    for name, part in expected_tensors(state, federation, task).items():
        if part.dtype == torch.int64:
            drawn[name] = torch.randint(0, 2**40, part.shape, generator=generator)
        else:
            drawn[name] = torch.randn(part.shape, generator=generator, dtype=part.dtype)
    update = ClientUpdate("north", 1 + seed % 1000)
    if task == "moments":
        return replace(update, moments=FeatureMoments(**drawn))
    if task == "lloyd":
        return replace(update, code_sums=CodeSums(**drawn)) if drawn else update
    centroids = drawn.pop("centroids", None)
    usage = None
    if "counts" in drawn:
        usage = CentroidUsage(drawn.pop("counts"), drawn.pop("cosines"))
    return replace(update, head=drawn or None, centroids=centroids, usage=usage, loss=seed / 7)


def receive(packet, state, task, federation):
    expected = expected_tensors(state, federation, task)
    sent = narrow_expected(expected, state.model.head, federation)
    return unpack_update(packet, "north", sent, task, federation)


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


@given(federation=federations, task=tasks, seed=seeds)
def test_any_update_of_any_strategy_arrives_in_the_same_bits(federation, task, seed, seeded):
    federation = resolve(federation)
    state = draw_state(seeded, 1)
    update = draw_update(seeded, seed, state, task, federation)
    sent = narrow_update(update, state.model.head, federation.wire)
    request = Request("run1", "0" * 64, task, 3, 0)
    packet = carry(pack_update(sent, request))
    check_answers(packet, request)
    found = receive(packet, state, task, federation)
    assert bits(found.tensors()) == bits(sent.tensors())
    assert (found.client_id, found.num_images, found.loss) == (
        "north",
        update.num_images,
        update.loss,
    )
    for part in ("head", "centroids", "usage", "code_sums", "moments"):
        assert (getattr(found, part) is None) == (getattr(sent, part) is None)
    # And what the server makes of it is what a simulation does.
    left = widen_update(found, state.model.head, federation.wire)
    right = widen_update(sent, state.model.head, federation.wire)
    assert bits(left.tensors()) == bits(right.tensors())


@given(
    federation=federations,
    task=tasks,
    seed=seeds,
    plan=st.tuples(st.integers(0, 10**6), st.tuples(finite, finite, finite), st.integers(1, 10**9)),
)
def test_any_state_arrives_as_a_simulated_client_has_it(
    federation, task, seed, plan, seeded, same_bits
):
    round_number, shift, num_steps = plan
    federation = resolve(federation)
    state = draw_state(seeded, seed, *plan)
    request = Request("run1", "0" * 64, task, round_number + 1, 0)
    packet = carry(pack_state(state, request, federation))
    assert read_request(packet) == request
    found = unpack_state(packet, CONFIG, federation, DIM)
    start = initial_state(CONFIG.model, state.plan, CONFIG.seed).model
    received = receive_state(state, federation.wire).model
    expected = Model(
        received.head if federation.aggregate_heads else start.head,
        received.centroids if federation.aggregate_centroids else start.centroids,
    )
    assert same_bits(found.model, expected)
    assert torch.equal(found.plan.mean_feature, state.plan.mean_feature)
    assert (found.plan.num_steps, found.plan.shift) == (num_steps, shift)
    assert found.round_number == round_number


@given(
    total=st.lists(finite, min_size=DIM, max_size=DIM),
    shift=st.none() | st.tuples(*[st.floats(-2, 2)] * 3),
    counts=st.tuples(st.integers(2, 2**53), st.integers(2, 2**53)),
    fingerprint=words,
)
def test_any_hello_arrives_as_it_was_said(total, shift, counts, fingerprint):
    feature_sum = torch.tensor(total, dtype=torch.float64)
    hello = Hello("north", counts[0], feature_sum, counts[1], shift, fingerprint, VERSION)
    packet = carry(pack_hello(hello, "0" * 64, "run1"))
    found = unpack_hello(packet, "north", DIM, shifts=shift is not None)
    assert bits({"sum": found.feature_sum}) == bits({"sum": feature_sum})
    assert replace(found, feature_sum=feature_sum) == hello


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


@given(data=st.data(), federation=federations, task=tasks)
def test_damaged_updates_are_read_or_refused(data, federation, task, seeded):
    federation = resolve(federation)
    state = draw_state(seeded, 1)
    update = draw_update(seeded, 2, state, task, federation)
    sent = narrow_update(update, state.model.head, federation.wire)
    request = Request("run1", "0" * 64, task, 3, 0)
    packet = data.draw(damaged(pack_update(sent, request)))
    try_to(check_answers, packet, request)
    found = try_to(receive, packet, state, task, federation)
    if found is not None:
        assert found.num_images >= 1
        assert all(bool(part.isfinite().all()) for part in found.tensors().values())


@given(data=st.data(), federation=federations, task=st.sampled_from(["train", "evaluate"]))
def test_damaged_states_are_read_or_refused(data, federation, task, seeded):
    federation = resolve(federation)
    state = draw_state(seeded, 1)
    request = Request("run1", "0" * 64, task, 3, 0)
    packet = data.draw(damaged(pack_state(state, request, federation)))
    try_to(read_request, packet)
    found = try_to(unpack_state, packet, CONFIG, federation, DIM)
    if found is not None:
        parts = (*found.model.head.values(), found.model.centroids, found.plan.mean_feature)
        assert all(bool(part.isfinite().all()) for part in parts)
        assert all(map(math.isfinite, found.plan.shift))


@given(data=st.data(), shifts=st.booleans())
def test_damaged_hellos_are_read_or_refused(data, shifts):
    hello = Hello("a", 3, torch.zeros(DIM).double(), 12, (0.1, 0.2, 0.3), "f", VERSION)
    packet = data.draw(damaged(pack_hello(hello, "0" * 64, "run1")))
    found = try_to(unpack_hello, packet, "north", DIM, shifts=shifts)
    assert found is None or found.client_id == "north"


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
    federation = FederationConfig(strategy="consensus")
    assert try_to(unpack_offer, packet) is None
    assert try_to(read_request, packet) is None
    assert try_to(unpack_state, packet, CONFIG, federation, DIM) is None
    assert try_to(unpack_hello, packet, "north", DIM, shifts=False) is None
    assert try_to(receive, packet, state, "train", federation) is None


@given(data=st.data())
def test_any_message_can_be_entered_in_the_ledger(data):
    """It is entered before anything in it is checked."""
    names = st.sampled_from(["round", "task", "more"])
    sent = data.draw(st.dictionaries(names, fields, max_size=3))
    named = data.draw(st.dictionaries(words, tensors(), max_size=2))
    line = describe_message("north", "to server", named, sent)
    assert line.bytes >= sum(len(to_bytes(part)) for part in named.values())
    assert len(line.sha256) == 64
