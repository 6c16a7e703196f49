import re

import pytest

from fusseg.core.errors import FederationError
from fusseg.deployment.wire.packet import Packet, expect_field, take_float, take_int, take_word

PACKET = Packet({"count": 3, "loss": 0.5, "task": "train", "zero": 0, "on": True, "long": "x" * 99})


def refused(take, *arguments):
    with pytest.raises(FederationError) as caught:
        take(PACKET, *arguments)
    return str(caught.value)


def test_a_packet_needs_no_tensors():
    assert PACKET.tensors == {}


def test_fields_are_read_by_name_and_type():
    assert take_int(PACKET, "count") == 3
    assert take_float(PACKET, "loss") == 0.5
    assert take_word(PACKET, "task") == "train"


@pytest.mark.parametrize(
    ("name", "got"),
    [("loss", "0.5"), ("task", "'train'"), ("on", "True"), ("none", "None")],
)
def test_a_count_is_a_whole_number(name, got):
    assert refused(take_int, name) == f"field {name!r} must be a whole number, got {got}"


def test_a_count_lies_within_its_bounds_both_included():
    assert take_int(PACKET, "count", 3, 3) == 3
    assert take_int(Packet({"count": 2**53}), "count") == 2**53
    assert refused(take_int, "count", 4) == "field 'count' must be 4 to 9007199254740992, got 3"
    assert refused(take_int, "count", 0, 2) == "field 'count' must be 0 to 2, got 3"
    for value in (-1, 2**53 + 1):
        with pytest.raises(FederationError, match=f"must be 0 to 9007199254740992, got {value}$"):
            take_int(Packet({"count": value}), "count")


@pytest.mark.parametrize(
    ("name", "got"),
    [("count", "3"), ("task", "'train'"), ("on", "True"), ("none", "None")],
)
def test_a_number_is_no_count_and_no_word(name, got):
    assert refused(take_float, name) == f"field {name!r} must be a finite number, got {got}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_is_finite(value):
    with pytest.raises(FederationError, match=f"'loss' must be a finite number, got {value}$"):
        take_float(Packet({"loss": value}), "loss")


@pytest.mark.parametrize(
    ("name", "got"), [("count", "3"), ("loss", "0.5"), ("on", "True"), ("none", "None")]
)
def test_a_word_is_a_word(name, got):
    assert refused(take_word, name) == f"field {name!r} must be a word, got {got}"


def test_long_values_are_cut_off_in_errors():
    cut = "'" + "x" * 49
    assert refused(take_int, "long") == f"field 'long' must be a whole number, got {cut}"
    assert refused(take_float, "long") == f"field 'long' must be a finite number, got {cut}"
    cut = "'" + "x" * 79
    assert refused(expect_field, "long", "y") == f"field 'long' must be 'y', got {cut}"


@pytest.mark.parametrize("name", ["count", "loss", "task", "zero", "on"])
def test_a_field_that_is_what_it_has_to_be_passes(name):
    expect_field(PACKET, name, PACKET.fields[name])


@pytest.mark.parametrize(
    ("name", "expected", "got"),
    [
        ("count", 4, "3"),
        ("count", 3.0, "3"),
        ("count", "3", "3"),
        ("zero", False, "0"),
        ("on", 1, "True"),
        ("task", "Train", "'train'"),
        ("none", "", "None"),
    ],
)
def test_a_field_of_another_value_or_type_is_refused(name, expected, got):
    message = f"field {name!r} must be {expected!r}, got {got}"
    with pytest.raises(FederationError, match=f"^{re.escape(message)}$"):
        expect_field(PACKET, name, expected)
