"""Whatever bytes another machine sends in the place of a message, it is read or refused."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="Flower is not installed")

from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fusseg.config.schema import Config, FederationConfig, ModelConfig
from fusseg.core.errors import FederationError
from fusseg.core.version import VERSION
from fusseg.deployment.server.site_scores import read_counts
from fusseg.deployment.wire.ledger import describe_message
from fusseg.deployment.wire.messages import pack, unpack
from fusseg.deployment.wire.offer import make_offer, pack_offer, unpack_offer
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.payloads import (
    EVALUATE,
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
from fusseg.deployment.wire.raw_tensors import from_bytes
from fusseg.deployment.wire.refusals import refusing
from fusseg.federation.parts import name_head
from fusseg.federation.protocol import sent_parts
from fusseg.federation.state import ClientUpdate, GlobalState, Hello
from fusseg.federation.strategies import resolve
from fusseg.federation.traffic import make_delivery
from fusseg.segmentation.head import initial_head
from fusseg.segmentation.objective import Model
from fusseg.segmentation.training import TrainingPlan

CONFIG = Config(
    model=ModelConfig(init="random", num_clusters=2, code_dim=3),
    federation=FederationConfig(strategy="fedavg"),
)
FEDAVG = resolve(CONFIG)
(TRAIN,) = FEDAVG.tasks(3)
DIM = 4
SHIFTS = {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}
REQUEST = Request("run1", "0" * 64, "train", 3, 0)
OFFER = make_offer(CONFIG, "run1", "f" * 64, center=True)


def start():
    generator = torch.Generator().manual_seed(1)
    model = Model(initial_head(DIM, 3, generator), torch.randn(2, 3, generator=generator))
    return GlobalState(2, model, TrainingPlan(7, torch.ones(DIM), SHIFTS))


STATE = start()
PARTS = {**name_head(STATE.model.head), "centroids": STATE.model.centroids}
UPDATE = ClientUpdate("north", 6, 0.25, PARTS)
HELLO = Hello("north", 3, torch.zeros(DIM).double(), 12, SHIFTS, "f" * 64, VERSION, 1.0)
DELIVERY = make_delivery(STATE, TRAIN, FEDAVG)
TASK = pack_task(STATE, REQUEST, DELIVERY, DELIVERY.kept)
HELD = {name: bundle.digest for name, bundle in DELIVERY.kept.items()}
COUNTS = Packet(
    {**replace(REQUEST, task=EVALUATE).fields(), "num_images": 3, "classes": '["a", "b"]'},
    {"confusion": torch.ones(2, 2, dtype=torch.int64)},
)


def read_update(packet):
    check_answers(packet, REQUEST)
    unpack_update(packet, "north", sent_parts(TRAIN, STATE, FEDAVG), TRAIN)


def read_task(packet):
    """As a site that has got plan and head before."""
    find_task(read_request(packet), FEDAVG, at_sites=True)
    with tempfile.TemporaryDirectory() as folder:
        unpack_task(TASK, TRAIN, FEDAVG, DIM, Path(folder))
        unpack_task(packet, TRAIN, FEDAVG, DIM, Path(folder))


MESSAGES = {
    "update": (pack_update(UPDATE, REQUEST), read_update),
    "hello": (
        pack_hello(HELLO, OFFER.digest, "run1"),
        lambda packet: unpack_hello(packet, "north", DIM, FEDAVG),
    ),
    "figures": (COUNTS, lambda packet: read_counts(packet, "north", 2, 3)),
    "task": (TASK, read_task),
    "task again": (pack_task(STATE, REQUEST, DELIVERY, DELIVERY.news(HELD)), read_task),
    "offer": (pack_offer(OFFER), unpack_offer),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_undamaged_messages_are_read(kind):
    """Else what follows would prove nothing."""
    packet, read = MESSAGES[kind]
    contents, whole = objects_of(packet)
    read_all(contents, whole, read)


def objects_of(packet):
    """A message as Flower carries it: bytes by number, and the number of the whole."""
    records = pack(packet)
    objects = get_all_nested_objects(records)
    return {number: one.deflate() for number, one in objects.items()}, records.object_id


giant = st.integers(min_value=1, max_value=9000).map(lambda count: b"9" * count)
pieces = st.one_of(
    giant,
    giant.map(lambda digits: b"-" + digits),
    st.sampled_from(
        [b"true", b"null", b"NaN", b"Infinity", b"1e999", b"{}", b"[]", b'"x"', b"\x00", b"\xff"]
    ),
    st.integers(1, 20_000).map(lambda depth: b"[" * depth),
    st.integers(1, 20_000).map(lambda count: b"1," * count + b"1"),
    st.binary(max_size=20),
    st.just(json.dumps("\x1b[2J\u202e" * 20_000).encode()),
)


@st.composite
def damage(draw, content):
    """Put something else in the place of a word, a number or a few bytes."""
    start = draw(st.integers(0, len(content)))
    length = draw(st.sampled_from([0, 1, 2, 8, 64, len(content)]))
    return content[:start] + draw(pieces) + content[start + length :]


def read_all(contents, whole, read):
    records = inflate_object_from_contents(whole, contents)
    assert isinstance(records, RecordDict)
    found = unpack(records)
    line = describe_message("north", "to server", found.tensors, found.fields)
    assert len(line.task) < 200
    read(found)


def refusal(function, *arguments):
    """Why something is refused, or None; no other error is let through."""
    try:
        function(*arguments)
    except FederationError as error:
        return str(error)
    return None


def refuse(*arguments):
    with refusing("the message"):
        read_all(*arguments)


@given(data=st.data(), kind=st.sampled_from(sorted(MESSAGES)))
def test_damaged_messages_are_read_or_refused_with_a_short_reason(data, kind):
    packet, read = MESSAGES[kind]
    contents, whole = objects_of(packet)
    for number in data.draw(st.lists(st.sampled_from(sorted(contents)), min_size=1, max_size=3)):
        contents[number] = data.draw(damage(contents[number]))
    reason = refusal(refuse, contents, whole, read)
    assert reason is None or (len(reason) <= 500 and reason.isprintable())


@given(data=st.data(), kind=st.sampled_from(sorted(MESSAGES)))
def test_what_flower_can_read_is_refused_by_a_check_that_foresaw_it(data, kind):
    """No other error than a refusal, once the bytes are records."""
    packet, read = MESSAGES[kind]
    contents, whole = objects_of(packet)
    number = data.draw(st.sampled_from(sorted(contents)))
    contents[number] = data.draw(damage(contents[number]))
    try:
        records = inflate_object_from_contents(whole, contents)
    except Exception:
        records = None
    assume(isinstance(records, RecordDict))
    refusal(lambda: read(unpack(records)))


sides = st.one_of(
    st.integers(-3, 5),
    st.booleans(),
    st.integers(2**30, 2**33),
    st.integers(1, 9000).map(lambda digits: 10**digits),
)


@given(
    shape=st.one_of(
        st.lists(sides, max_size=10),
        st.integers(9, 100_000).map(lambda count: [7**300] * count),
    ),
    content=st.binary(max_size=64),
)
def test_any_shape_is_a_tensors_or_refused(shape, content):
    reason = refusal(from_bytes, "w", "float32", shape, content)
    if reason is None:
        assert from_bytes("w", "float32", shape, content).shape == tuple(shape)
        assert not any(isinstance(side, bool) for side in shape)
    else:
        assert len(reason) < 500
