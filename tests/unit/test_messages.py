import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from fusseg.core.errors import FederationError
from fusseg.deployment.wire.ledger import describe_message
from fusseg.deployment.wire.messages import pack, unpack
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.raw_tensors import DTYPES

FIELDS = {"task": "train", "round": 2, "loss": 0.5, "text": "Köln\n"}


def over_the_wire(records):
    content = recorddict_to_proto(records).SerializeToString()
    return recorddict_from_proto(type(recorddict_to_proto(records)).FromString(content))


def records(tensors=None, fields=None):
    return RecordDict(
        {"tensors": ArrayRecord(tensors or {}), "fields": ConfigRecord(fields or {"round": 1})}
    )


def array(dtype="float32", shape=(1,), stype="fusseg.raw", data=bytes(4)):
    return Array(dtype, shape, stype, data)


def refused(message):
    with pytest.raises(FederationError) as caught:
        unpack(message)
    return str(caught.value)


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_packet_arrives_as_it_was_sent(dtype, shape, seeded):
    tensor = torch.randint(-9, 9, shape, generator=seeded(0)).to(dtype)
    sent = Packet(FIELDS, {"w": tensor, "b": torch.tensor([1, 2])})
    found = unpack(over_the_wire(pack(sent)))
    assert found.fields == FIELDS
    assert [type(found.fields[name]) for name in FIELDS] == [str, int, float, str]
    assert found.tensors.keys() == {"w", "b"}
    assert torch.equal(found.tensors["w"], tensor)
    assert found.tensors["w"].dtype == dtype
    assert found.tensors["w"].shape == shape
    ends = [describe_message("a", "to site", end.tensors, end.fields) for end in (sent, found)]
    assert ends[0].sha256 == ends[1].sha256


def test_a_packet_may_have_no_tensors():
    found = unpack(over_the_wire(pack(Packet({"state": "refused"}))))
    assert (found.fields, found.tensors) == ({"state": "refused"}, {})


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (RecordDict(), "[]"),
        (RecordDict({"fields": ConfigRecord({})}), "['fields']"),
        (
            RecordDict(
                {"tensors": ArrayRecord(), "fields": ConfigRecord(), "more": ConfigRecord()}
            ),
            "['fields', 'more', 'tensors']",
        ),
        (
            RecordDict({f"{name:02}": ConfigRecord() for name in range(20)}),
            "['00', '01', '02', '03', '04', '05', '06', '07', '08']",
        ),
    ],
)
def test_a_message_holds_two_records(message, names):
    assert refused(message) == (
        f"a message must hold the records 'fields' and 'tensors', got {names}"
    )


@pytest.mark.parametrize(
    ("tensors", "fields"),
    [
        (ConfigRecord(), ConfigRecord()),
        (ArrayRecord(), ArrayRecord()),
        (ArrayRecord(), MetricRecord({"a": 1})),
    ],
)
def test_records_are_of_their_kind(tensors, fields):
    message = RecordDict({"tensors": tensors, "fields": fields})
    assert refused(message) == "a message holds records of other kinds than it should"


def test_a_message_holds_so_many_tensors_and_fields_at_most():
    most = {str(name): array() for name in range(64)}
    fields = {str(name): name for name in range(64)}
    assert len(unpack(records(most, fields)).tensors) == 64
    assert refused(records({**most, "more": array()}, {"a": 1})) == (
        "a message holds 65 tensors and 1 fields, at most 64 and 64 are allowed"
    )
    assert refused(records(most, {**fields, "more": 1})) == (
        "a message holds 64 tensors and 65 fields, at most 64 and 64 are allowed"
    )


def test_tensors_of_numpy_or_pickle_are_refused():
    assert refused(records({"w": array(stype="numpy.ndarray")})) == (
        "tensor 'w' is written as 'numpy.ndarray', not 'fusseg.raw'"
    )


def test_tensors_are_checked_as_they_are_read():
    assert refused(records({"w": array(dtype="object")})) == (
        "tensor 'w' is 'object', must be one of float32, float64, bfloat16, int64"
    )
    assert refused(records({"w": array(shape=(2,))})) == (
        "tensor 'w' of shape (2,) as float32 takes 8 bytes (at most 536870912), got 4"
    )


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (True, "True"),
        (b"abc", "b'abc'"),
        ([1, 2], "[1, 2]"),
        (["x" * 99], "['" + "x" * 48),
    ],
)
def test_a_field_is_a_number_or_a_word(value, got):
    assert refused(records(fields={"a": value})) == (
        f"field 'a' must be a number or a word, got {got}"
    )


def test_a_word_is_not_too_long():
    assert unpack(records(fields={"a": "x" * 65536})).fields == {"a": "x" * 65536}
    assert refused(records(fields={"a": "x" * 65537})) == (
        "field 'a' has 65537 characters, at most 65536 are allowed"
    )


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    st.binary(max_size=9),
)
arrays = st.builds(
    Array,
    st.sampled_from([*DTYPES, "float16", "object", ""]),
    st.lists(st.integers(-2, 4) | st.integers(-(2**31), 2**31 - 1), max_size=3).map(tuple),
    st.sampled_from(["fusseg.raw", "fusseg.raw", "numpy.ndarray", ""]),
    st.integers(0, 16).map(lambda count: bytes(4 * count)),
)
kinds = st.one_of(
    st.dictionaries(st.text("ab", max_size=2), arrays, max_size=3).map(ArrayRecord),
    st.dictionaries(st.text("ab", max_size=2), scalars, max_size=3).map(ConfigRecord),
    st.just(MetricRecord({"a": 1.0})),
)
names = st.sampled_from(["tensors", "fields", "tensors", "fields", "more"])


@given(st.dictionaries(names, kinds, max_size=3))
def test_whatever_records_arrive_are_read_or_refused(found):
    try:
        packet = unpack(RecordDict(found))
    except FederationError:
        return
    # What was read can be entered in the ledger.
    line = describe_message("a", "to server", packet.tensors, packet.fields)
    assert line.bytes >= sum(tensor.bytes for tensor in line.tensors)
