"""Convert packets to Flower's records, and check records when they are read."""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import shown
from fusseg.deployment.wire.ledger import Field
from fusseg.deployment.wire.packet import Packet
from fusseg.deployment.wire.raw_tensors import dtype_name, from_bytes, to_bytes

_TENSORS, _FIELDS = "tensors", "fields"
_STYPE = "fusseg.raw"
MOST_TENSORS = 64
MOST_FIELDS = 64
LONGEST_NAME = 100
LONGEST_WORD = 65536
"""Most characters of one field; the longest are the settings that a server offers."""


def pack(packet: Packet) -> RecordDict:
    """Convert a packet to Flower's records."""
    arrays = {
        name: Array(dtype_name(tensor), tuple(tensor.shape), _STYPE, to_bytes(tensor))
        for name, tensor in packet.tensors.items()
    }
    return RecordDict({_TENSORS: ArrayRecord(arrays), _FIELDS: ConfigRecord(dict(packet.fields))})


def unpack(records: RecordDict) -> Packet:
    """Read a packet from an untrusted sender.

    Raises:
        FederationError: If records are missing or superfluous, or a record has wrong content.
    """
    if set(records) != {_TENSORS, _FIELDS}:
        raise FederationError(
            f"a message must hold the records 'fields' and 'tensors', got "
            f"{shown(sorted(records)[:9], 200)}"
        )
    arrays, fields = records[_TENSORS], records[_FIELDS]
    if not isinstance(arrays, ArrayRecord) or not isinstance(fields, ConfigRecord):
        raise FederationError("a message holds records of other kinds than it should")
    if len(arrays) > MOST_TENSORS or len(fields) > MOST_FIELDS:
        raise FederationError(
            f"a message holds {len(arrays)} tensors and {len(fields)} fields, at most "
            f"{MOST_TENSORS} and {MOST_FIELDS} are allowed"
        )
    for name in (*arrays, *fields):
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise FederationError(
                f"a message names {shown(name)}; names are at most {LONGEST_NAME} printable "
                "characters"
            )
    tensors = {name: _tensor(name, array) for name, array in arrays.items()}
    return Packet({name: _field(name, value) for name, value in fields.items()}, tensors)


def _tensor(name: str, array: Array) -> Tensor:
    if array.stype != _STYPE:
        raise FederationError(f"tensor {name!r} is written as {shown(array.stype)}, not {_STYPE!r}")
    return from_bytes(name, array.dtype, array.shape, array.data)


def _field(name: str, value: object) -> Field:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise FederationError(f"field {name!r} must be a number or a word, got {shown(value)}")
    if isinstance(value, str) and len(value) > LONGEST_WORD:
        raise FederationError(
            f"field {name!r} has {len(value)} characters, at most {LONGEST_WORD} are allowed"
        )
    return value
