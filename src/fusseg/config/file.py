"""Configurations as TOML: reading, overriding on the command line, writing with every key."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tomli_w

from fusseg.config.presets import DEFAULT, find_preset
from fusseg.config.previous_version import refuse_moved_keys
from fusseg.config.schema import Config
from fusseg.config.values import convert
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.core.portable_paths import without_folders_in
from fusseg.core.toml_file import load_toml

Settings = TypeVar("Settings")

_TABLES = "tables"
"""Field in which a section keeps, as written, the tables that it has no field for."""


def load_config(path: Path | str, overrides: Sequence[str] = (), preset: str = DEFAULT) -> Config:
    """Read a configuration file, with `section.key=value` overrides on top.

    Args:
        path: TOML file.
        overrides: Values that are not valid TOML are taken as strings.
        preset: Name of the settings that keys take which are set in neither.

    Raises:
        ConfigError: If the file cannot be read, a key or the preset is unknown, or a value out of
            range.
    """
    table = merge_tables(find_preset(preset), read_toml(Path(path)))
    return parse_config(_override(table, overrides))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as nested tables.

    Raises:
        ConfigError: If it cannot be read or is not TOML.
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

    Examples:
        >>> parse_overrides(["model.num_clusters=3", "data.root=photos"])
        {'model': {'num_clusters': 3}, 'data': {'root': 'photos'}}
    """
    return _override({}, overrides)


def merge_tables(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested tables; a key in both takes its value from `above`.

    Examples:
        >>> merge_tables({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
        {'a': {'b': 1, 'c': 3}}
    """
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[name] = merge_tables(under, value)
        else:
            merged[name] = value
    return merged


def parse_config(table: Mapping[str, Any]) -> Config:
    """Build a configuration from nested tables; missing keys take their defaults.

    Raises:
        ConfigError: If a key is unknown or was renamed, a value has the wrong type or range, or a
            path begins with a tilde.

    Examples:
        >>> config = parse_config({"model": {"num_clusters": 3}})
        >>> config.model.num_clusters, config.model.code_dim
        (3, 70)
        >>> parse_config({"seeds": 3})
        Traceback (most recent call last):
            ...
        fusseg.core.errors.ConfigError: unknown key 'seeds'; did you mean 'seed'?
    """
    refuse_moved_keys(table)
    config = build_settings(Config, table, "")
    for key, value in flatten(to_table(config)).items():
        # In onnx:PATH and file:PATH, the path follows a colon.
        if isinstance(value, str) and re.match(r"(\w+:)?~(/|$)", value):
            raise ConfigError(
                f"{key} begins with ~, which only a shell expands; write the path out, got "
                f"{value!r}"
            )
    return config


def build_settings(kind: type[Settings], table: Mapping[str, Any], prefix: str) -> Settings:
    """Build a frozen dataclass of settings from a table; missing keys take their defaults.

    Args:
        kind: The dataclass; its fields may be dataclasses of settings, too.
        table: As read from TOML.
        prefix: Prefix of each key in messages, such as `local.stego.`.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or range.
    """
    # Not `field.type`: it is a string where annotations are not evaluated.
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
    """Convert a configuration to the nested tables that `parse_config` reads."""
    table = dataclasses.asdict(config)
    table["local"] |= table["local"].pop(_TABLES)
    return table


def spell_out(config: Config, kinds: Mapping[str, type]) -> Config:
    """Fill the objectives' tables with defaults, so that every key has a value.

    Args:
        config: With tables as written.
        kinds: Dataclass of each objective's settings, by name. The table of the chosen objective is
            added if it is missing; tables of unknown objectives are kept as they are.

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

    Every key is written; those of the objectives' tables only after `spell_out`.
    """
    return tomli_w.dumps(_without_none(to_table(config)))


def dump_portable_config(config: Config) -> str:
    """Write a configuration as TOML to share; absolute paths are shortened to their last part."""
    return tomli_w.dumps(_without_none(without_folders_in(to_table(config))))


def differing_keys(left: Config, right: Config) -> list[str]:
    """List the dotted keys in which two configurations differ.

    Examples:
        >>> differing_keys(parse_config({}), parse_config({"seed": 1, "model": {"code_dim": 8}}))
        ['seed', 'model.code_dim']
    """
    flat_left, flat_right = flatten(to_table(left)), flatten(to_table(right))
    # The objectives' tables may hold different keys in the two.
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
    """Convert lists to tuples, so that settings from TOML and from Python compare equal."""
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
    """Flatten nested tables to values by dotted key.

    Examples:
        >>> flatten({"seed": 0, "model": {"code_dim": 70}})
        {'seed': 0, 'model.code_dim': 70}
    """
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
