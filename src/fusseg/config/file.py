"""Configurations as TOML: read, overridden from the command line, and written back whole."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tomli_w

from fusseg.config.previous_version import refuse_moved_keys
from fusseg.config.schema import Config
from fusseg.config.values import convert
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.core.portable_paths import without_folders_in
from fusseg.core.toml_file import load_toml

Settings = TypeVar("Settings")

_TABLES = "tables"
"""Field of a section that keeps the tables that it has no field for, as they are written."""


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, with `section.key=value` overrides on top.

    Args:
        path: TOML file.
        overrides: Values are TOML, or plain strings where they are not valid TOML.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown or a value out of range.
    """
    return parse_config(_override(read_toml(Path(path)), overrides))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as nested tables.

    Raises:
        ConfigError: If it cannot be read, or is no TOML.
    """
    try:
        return load_toml(path)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also UTF-8, huge numbers, deep nesting
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read `section.key=value` overrides as nested tables.

    Raises:
        ConfigError: If one has no key or no value.
    """
    return _override({}, overrides)


def merge_tables(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested table over another; where both set a key, the upper one holds."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[name] = merge_tables(under, value)
        else:
            merged[name] = value
    return merged


def parse_config(table: Mapping[str, Any]) -> Config:
    """Build a configuration from nested tables; what is missing takes its default.

    Raises:
        ConfigError: If a key is unknown or has another name by now, a value has the wrong type or
            range, or a path begins with a tilde.
    """
    refuse_moved_keys(table)
    config = build_settings(Config, table, "")
    for key, value in flatten(to_table(config)).items():
        # The folder is behind a colon in onnx:PATH and file:PATH.
        if isinstance(value, str) and re.match(r"(\w+:)?~(/|$)", value):
            raise ConfigError(
                f"{key} begins with ~, which only a shell expands; write the path out, got "
                f"{value!r}"
            )
    return config


def build_settings(kind: type[Settings], table: Mapping[str, Any], prefix: str) -> Settings:
    """Build a frozen dataclass of settings from a table; what is missing takes its default.

    Args:
        kind: The dataclass; one of its fields may be such a dataclass again.
        table: As read from TOML.
        prefix: What stands before each key in messages, such as `local.stego.`.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or range.
    """
    # Not the fields' own types: those are words where annotations are not evaluated.
    hints = get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    keeps_tables = fields.pop(_TABLES, None) is not None
    values: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if name in fields:
            values[name] = _build_value(fields[name], value, key)
        elif keeps_tables and isinstance(value, Mapping):
            tables[name] = _with_tuples(value)
        else:
            known = [f"{prefix}{field}" for field in fields]
            raise ConfigError(f"unknown key {key!r}; {nearest_name(key, known)}")
    return kind(**values, **({_TABLES: tables} if tables else {}))


def to_table(config: Config) -> dict[str, Any]:
    """Write a configuration as the nested tables that `parse_config` reads."""
    table = dataclasses.asdict(config)
    table["local"] |= table["local"].pop(_TABLES)
    return table


def spell_out(config: Config, kinds: Mapping[str, type]) -> Config:
    """Give every key of the objectives' tables a value, also where it is the default.

    Args:
        config: With tables as written.
        kinds: Dataclass of each objective's settings, by name. The table of the chosen objective is
            added where there is none; a table that is not among them stays as it is.

    Raises:
        ConfigError: If a table has an unknown key, or a value of the wrong type or range.
    """
    tables = dict(config.local.tables)
    for name in sorted({*tables, config.local.objective} & kinds.keys()):
        settings: Any = build_settings(kinds[name], tables.get(name, {}), f"local.{name}.")
        tables[name] = _without_none(dataclasses.asdict(settings))
    return dataclasses.replace(config, local=dataclasses.replace(config.local, tables=tables))


def dump_config(config: Config) -> str:
    """Write a configuration as TOML, so that it can be run again.

    Every key is spelled out; those of an objective's table are where `spell_out` was asked to.
    """
    return tomli_w.dumps(_without_none(to_table(config)))


def dump_portable_config(config: Config) -> str:
    """Write a configuration to show to others: absolute paths are shortened to their last part."""
    return tomli_w.dumps(_without_none(without_folders_in(to_table(config))))


def differing_keys(left: Config, right: Config) -> list[str]:
    """Name the dotted keys in which two configurations differ."""
    flat_left, flat_right = flatten(to_table(left)), flatten(to_table(right))
    # A table may hold other keys in each of them.
    keys = dict.fromkeys([*flat_left, *flat_right])
    return [key for key in keys if flat_left.get(key) != flat_right.get(key)]


def _override(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set needs section.key=value, got {override!r}")
        *sections, name = key.strip().split(".")
        place = table
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
        place[name] = _parse_value(text.strip())
    return table


def _parse_value(text: str) -> Any:  # noqa: ANN401 - whatever TOML holds
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text could smuggle in more keys than the one asked for.
    return parsed["value"] if len(parsed) == 1 else text


def _build_value(kind: Any, value: Any, key: str) -> Any:  # noqa: ANN401 - checked value by value
    if not (dataclasses.is_dataclass(kind) and isinstance(kind, type)):
        return convert(key, value, kind)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a section, got {value!r}")
    return build_settings(kind, value, f"{key}.")


def _with_tuples(value: Any) -> Any:  # noqa: ANN401 - whatever TOML holds
    """Make tuples of lists, so that equal settings compare equal however they came about."""
    if isinstance(value, Mapping):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in table.items()
        if value is not None
    }


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name every value of nested tables by its dotted key."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
