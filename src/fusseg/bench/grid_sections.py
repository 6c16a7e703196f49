"""The parts of a grid's TOML, each read and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_args

from fusseg.bench.grid import Anchor, Column, Method
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, nearest_name

Kind = TypeVar("Kind")

_SECTIONS = tuple(field.name for field in fields(Config) if field.name != "seed")
SINGLE_COLUMN = "all"
"""Name of the column of a grid without columns."""
MAX_SEEDS = 1000


def read_seeds(value: Any) -> tuple[int, ...]:  # noqa: ANN401 - checked here
    """Read a number of seeds, or a list of them.

    Raises:
        ConfigError: If there is none, one occurs twice, or one is no seed.
    """
    numbers = list(range(min(value, MAX_SEEDS + 1))) if type(value) is int else value
    if not isinstance(numbers, list) or not all(type(seed) is int for seed in numbers):
        raise ConfigError(f"seeds must be a number of seeds or a list of them, got {value!r}")
    if not 1 <= len(numbers) <= MAX_SEEDS or len(set(numbers)) < len(numbers):
        raise ConfigError(f"seeds must be 1 to {MAX_SEEDS} different ones, got {value!r}")
    if any(not 0 <= seed < 2**63 for seed in numbers):
        raise ConfigError(f"seeds must be at least 0 and below 2^63, got {value!r}")
    return tuple(numbers)


def read_columns(table: Mapping[str, Any]) -> tuple[Column, ...]:
    """Read the columns; a grid without any has one.

    Raises:
        ConfigError: If one is no table of settings.
    """
    for name, settings in table.items():
        _check_table(f"columns.{name}", settings)
        check_keys(f"column {name!r}", settings, _SECTIONS)
    if not table:
        return (Column(SINGLE_COLUMN, {}),)
    return tuple(Column(name, settings) for name, settings in table.items())


def read_methods(table: Mapping[str, Any], columns: Sequence[str]) -> tuple[Method, ...]:
    """Read the rows.

    Args:
        table: What stands below `methods`.
        columns: Names of the columns.

    Raises:
        ConfigError: If there is none, or one is wrong.
    """
    if not table:
        raise ConfigError("a grid needs at least one method; add [methods.NAME]")
    methods = []
    for name, settings in table.items():
        _check_table(f"methods.{name}", settings)
        check_keys(f"method {name!r}", settings, (*_SECTIONS, "anchor", "columns"))
        anchor = settings.get("anchor")
        if anchor is not None and anchor not in get_args(Anchor):
            raise ConfigError(
                f"methods.{name}.anchor must be one of {', '.join(get_args(Anchor))}, "
                f"got {anchor!r}"
            )
        restricted = read_strings(f"methods.{name}.columns", settings.get("columns", []))
        for column in restricted:
            if column not in columns:
                raise ConfigError(
                    f"methods.{name}.columns: unknown column {column!r}; "
                    f"{nearest_name(column, columns)}"
                )
        rest = {key: settings[key] for key in settings if key in _SECTIONS}
        methods.append(Method(name, rest, anchor, restricted))
    return tuple(methods)


def read_published(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Read the paper's figures.

    Raises:
        ConfigError: If one is no percentage.
    """
    published: dict[str, dict[str, float]] = {}
    for row, figures in table.items():
        _check_table(f"published.{row}", figures)
        published[row] = {}
        for column, percent in figures.items():
            if type(percent) not in (int, float) or not 0 <= percent <= 100:
                raise ConfigError(
                    f"published.{row}.{column} must be a percentage, 0 to 100, got {percent!r}"
                )
            published[row][column] = float(percent)
    return published


def check_keys(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keys that are not known.

    Raises:
        ConfigError: If there is one.
    """
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}; {nearest_name(name, known)}")


def _check_table(key: str, value: Any) -> None:  # noqa: ANN401 - checked here
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a table, got {value!r}")


def read_section(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Read a table; empty where it is left out.

    Raises:
        ConfigError: If it is no table.
    """
    value = table.get(key, {})
    _check_table(key, value)
    return dict(value)


def read_typed(
    table: Mapping[str, Any], key: str, kind: type[Kind], words: str, default: Kind | None = None
) -> Kind:
    """Read a value of one type.

    Raises:
        ConfigError: If it is of another type.
    """
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise ConfigError(f"{key} must be {words}, got {value!r}")
    return value


def read_strings(key: str, value: Any) -> tuple[str, ...]:  # noqa: ANN401 - checked here
    """Read a list of strings.

    Raises:
        ConfigError: If it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ConfigError(f"{key} must be a list of strings, got {value!r}")
    return tuple(value)
