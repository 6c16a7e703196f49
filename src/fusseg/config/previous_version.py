"""Compatibility with the previous version: renamed keys, and the files of its runs.

A configuration written by hand is refused with the new names of its keys. The files of a finished
run are translated when they are read; they are never rewritten.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fusseg.core.errors import ConfigError

PREVIOUS = "0.1.0"
"""The previous version; its runs can still be read."""

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
} | {"federation.weighted": "federation.weights"}
"""Dotted key of the previous version to its name in this one."""
_VALUES = {"federation.weighted": {True: "images", False: "equal"}}
"""New names of values that changed with their keys."""

_SHIFTS = ("shift_self", "shift_neighbor", "shift_random")


def moved_keys(table: Mapping[str, Any]) -> list[str]:
    """List the keys of a configuration that were renamed.

    Examples:
        >>> moved_keys({"local": {"steps": 100, "dropout": 0.1}})
        ['local.dropout']
    """
    return [key for key in MOVED_KEYS if _holds(table, key)]


def refuse_moved_keys(table: Mapping[str, Any]) -> None:
    """Refuse a configuration with keys of the previous version.

    Raises:
        ConfigError: If there are any; the message gives the new name of each.
    """
    moved = moved_keys(table)
    if moved:
        names = ", ".join(f"{key} is now {MOVED_KEYS[key]}{_describe_values(key)}" for key in moved)
        raise ConfigError(f"{names}; fusseg {PREVIOUS} had the old name, see the changelog")


def translate_settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a configuration to their names in this version."""
    translated = _copy(table)
    for key in moved_keys(table):
        *sections, name = key.split(".")
        value = _table_at(translated, sections).pop(name)
        value = _VALUES.get(key, {}).get(value, value) if isinstance(value, bool) else value
        *sections, name = MOVED_KEYS[key].split(".")
        _table_at(translated, sections)[name] = value
    return translated


def name_choices(table: Mapping[str, Any]) -> dict[str, Any]:
    """Name what a run did that was configured when there was no choice.

    >>> name_choices({"seed": 3})
    {'seed': 3, 'model': {'init': 'random', 'whitening': 0.0}, 'federation': {'keep': 'last'}}

    Args:
        table: Configuration in a run directory.
    """
    model, federation = table.get("model", {}), table.get("federation", {})
    if not isinstance(model, Mapping) or not isinstance(federation, Mapping):
        return dict(table)
    named = _copy(table)
    # The strategy made its own start.
    start = "pca" if federation.get("strategy") == "pca" else "random"
    named["model"] = {"init": start, "whitening": 0.0, **model}
    named["federation"] = {"keep": "last", **federation}
    stego = named.get("local", {}).get("stego") if isinstance(named.get("local"), dict) else None
    if isinstance(stego, dict):
        stego.setdefault("shift_from_start", False)
    return named


def translate_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a run's record, of this version or the previous one, to the format of this one."""
    translated = dict(record)
    if record["format_version"] == 1:
        translated["format_version"] = 2
        if isinstance(record.get("hello"), Mapping):
            translated["hello"] = dict(_agreed_for_shift(record["hello"]))
    return translated


def translate_state(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the metadata of a run's state in the same way."""
    if metadata["format_version"] != 1:
        return dict(metadata)
    return {**dict(_agreed_for_shift(metadata)), "format_version": 2}


def _agreed_for_shift(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if name == "shift":
            yield "agreed", dict(zip(_SHIFTS, value, strict=True))
        else:
            yield name, value


def _describe_values(key: str) -> str:
    renamed = _VALUES.get(key, {})
    pairs = (f"{str(old).lower()} is now {new!r}" for old, new in renamed.items())
    return f" ({', '.join(pairs)})" if renamed else ""


def _holds(table: Mapping[str, Any], key: str) -> bool:
    *sections, name = key.split(".")
    for section in sections:
        inner = table.get(section)
        if not isinstance(inner, Mapping):
            return False
        table = inner
    # A table belongs to an objective, whatever its name.
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
