"""The content of one message, and functions that read its fields by name, type and bounds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import shown
from fusseg.deployment.wire.ledger import Field

FIELDS = frozenset(
    {
        *("center", "classes", "done", "feature_count", "feature_spread", "fingerprint"),
        *("head", "loss", "num_images", "num_steps", "offer", "place", "plan", "reason", "round"),
        *("run", "settings", "state", "task", "taught", "taught_classes", "total", "version"),
        *("kind", "needed", "session", "sites"),
    }
)
"""Names of the fields of messages, which the numbers of an objective must not use."""


@dataclass(frozen=True)
class Packet:
    """Named tensors, with numbers and words as fields."""

    fields: Mapping[str, Field]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def take_int(packet: Packet, name: str, least: int = 0, most: int = 2**53) -> int:
    """Read a whole number within bounds.

    Raises:
        FederationError: If it is missing, of another type or out of bounds.
    """
    value = packet.fields.get(name)
    # bool is a subclass of int, but not a count.
    if isinstance(value, bool) or not isinstance(value, int):
        raise FederationError(f"field {name!r} must be a whole number, got {shown(value)}")
    if not least <= value <= most:
        raise FederationError(f"field {name!r} must be {least} to {most}, got {shown(value)}")
    return value


def take_float(packet: Packet, name: str) -> float:
    """Read a finite number.

    Raises:
        FederationError: If it is missing, of another type or not finite.
    """
    value = packet.fields.get(name)
    if not isinstance(value, float) or not math.isfinite(value):
        raise FederationError(f"field {name!r} must be a finite number, got {shown(value)}")
    return value


def take_word(packet: Packet, name: str) -> str:
    """Read a word.

    Raises:
        FederationError: If it is missing or of another type.
    """
    value = packet.fields.get(name)
    if not isinstance(value, str):
        raise FederationError(f"field {name!r} must be a word, got {shown(value)}")
    return value


def expect_field(packet: Packet, name: str, expected: Field) -> None:
    """Refuse a packet if a field does not have the expected value.

    Raises:
        FederationError: If it is missing or has another value.
    """
    value = packet.fields.get(name)
    if value != expected or type(value) is not type(expected):
        raise FederationError(f"field {name!r} must be {expected!r}, got {shown(value, 80)}")
