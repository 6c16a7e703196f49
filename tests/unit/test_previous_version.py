import pytest

from fusseg.config.previous_version import (
    moved_keys,
    translate_record,
    translate_settings,
    translate_state,
)
from fusseg.core.errors import ConfigError

AGREED = {"shift_self": 0.1, "shift_neighbor": 0.2, "shift_random": 0.3}


def test_keys_of_the_previous_version_are_moved_and_others_stay():
    table = {"seed": 3, "local": {"steps": 7, "dropout": 0.2, "shift": [1, 2, 3]}, "data": {}}
    assert translate_settings(table) == {
        "seed": 3,
        "local": {"steps": 7, "stego": {"dropout": 0.2, "shift": [1, 2, 3]}},
        "data": {},
    }
    assert table["local"] == {"steps": 7, "dropout": 0.2, "shift": [1, 2, 3]}


def test_settings_of_this_version_are_translated_to_themselves():
    table = {"local": {"steps": 7, "stego": {"dropout": 0.2}, "shift": {"a": 1}}, "model": 3}
    assert translate_settings(table) == table
    assert moved_keys(table) == moved_keys({}) == moved_keys({"local": 3}) == []


def test_a_key_in_place_of_the_new_table_is_refused():
    with pytest.raises(ConfigError, match=r"local\.stego must be a table, got 3"):
        translate_settings({"local": {"stego": 3, "dropout": 0.2}})


def test_the_shifts_of_a_record_become_what_was_agreed_on():
    hello = {"local_steps": 3, "shift": [0.1, 0.2, 0.3], "bytes_up": 5}
    record = {"format_version": 1, "name": "a", "hello": hello}
    assert translate_record(record) == {
        "format_version": 2,
        "name": "a",
        "hello": {"local_steps": 3, "agreed": AGREED, "bytes_up": 5},
    }
    assert hello["shift"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("hello", [None, {"agreed": AGREED}, {"shift": [1]}])
def test_a_record_of_this_version_stays_as_it_is(hello):
    record = {"format_version": 2, "hello": hello}
    assert translate_record(record) == record


def test_a_record_that_was_stopped_before_the_hello_has_nothing_to_translate():
    assert translate_record({"format_version": 1, "hello": None}) == {
        "format_version": 2,
        "hello": None,
    }


def test_the_shifts_of_a_state_become_what_was_agreed_on():
    state = {"format_version": 1, "shift": [0.1, 0.2, 0.3], "num_steps": 3}
    translated = {"format_version": 2, "agreed": AGREED, "num_steps": 3}
    assert translate_state(state) == translated
    assert translate_state(translated) == translated


def test_shifts_that_are_not_three_are_damaged():
    with pytest.raises(ValueError, match="shorter"):
        translate_state({"format_version": 1, "shift": [0.1, 0.2]})
