"""What the previous version wrote: keys that moved, and the files of its runs.

A file that people write is refused with the new names. What a finished run holds is translated as
it is read, and nothing is written back.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fusseg.core.errors import ConfigError

PREVIOUS = "0.1.0"
"""Version whose runs are still read."""

MOVED_KEYS: dict[str, str] = {
    f"local.{name}": f"local.stego.{name}"
    for name in (
        "positions",
        "neighbors",
        "random_supports",
        "dropout",
        "self_weight",
        "neighbor_weight",
        "random_weight",
        "shift",
        "shift_quantiles",
        "shift_batches",
        "separation_weight",
    )
}
"""Dotted key of the previous version to that of this one."""

_SHIFTS = ("shift_self", "shift_neighbor", "shift_random")


def moved_keys(table: Mapping[str, Any]) -> list[str]:
    """Name the keys of a configuration that have another name by now."""
    return [key for key in MOVED_KEYS if _holds(table, key)]


def refuse_moved_keys(table: Mapping[str, Any]) -> None:
    """Refuse a configuration with keys of the previous version.

    Raises:
        ConfigError: If there are some; each is named with its new name.
    """
    moved = moved_keys(table)
    if moved:
        names = ", ".join(f"{key} is now {MOVED_KEYS[key]}" for key in moved)
        raise ConfigError(f"{names}; since fusseg {PREVIOUS} each objective has its own table")


def translate_settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys of a configuration the names that they have in this version."""
    translated = _copy(table)
    for key in moved_keys(table):
        *sections, name = key.split(".")
        value = _table_at(translated, sections).pop(name)
        *sections, name = MOVED_KEYS[key].split(".")
        _table_at(translated, sections)[name] = value
    return translated


def translate_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a run's record, of this version or the previous one, into the form of this version."""
    translated = dict(record)
    if record["format_version"] == 1:
        translated["format_version"] = 2
        if isinstance(record.get("hello"), Mapping):
            translated["hello"] = dict(_agreed_for_shift(record["hello"]))
    return translated


def translate_state(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the metadata of a run's state into the form of this version likewise."""
    if metadata["format_version"] != 1:
        return dict(metadata)
    return {**dict(_agreed_for_shift(metadata)), "format_version": 2}


def _agreed_for_shift(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if name == "shift":
            yield "agreed", dict(zip(_SHIFTS, value, strict=True))
        else:
            yield name, value


def _holds(table: Mapping[str, Any], key: str) -> bool:
    *sections, name = key.split(".")
    for section in sections:
        inner = table.get(section)
        if not isinstance(inner, Mapping):
            return False
        table = inner
    # A table is an objective's own, whatever it is called.
    return name in table and not isinstance(table[name], Mapping)


def _table_at(table: dict[str, Any], sections: list[str]) -> dict[str, Any]:
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{'.'.join(sections)} must be a table, got {table!r}")
    return table


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _copy(value) if isinstance(value, Mapping) else value for name, value in table.items()
    }
