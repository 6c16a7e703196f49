"""Grids as TOML files: find, read, check and write them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomli_w

from fusseg.bench.grid import Anchor, Column, Grid, Method, cell_config
from fusseg.config.file import merge_tables, read_toml
from fusseg.config.presets import PRESETS, find_preset
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, nearest_name

Kind = TypeVar("Kind")

SINGLE_COLUMN = "all"
"""Name of the only column of a grid that lists none."""
MAX_SEEDS = 1000
_SECTIONS = tuple(field.name for field in fields(Config) if field.name != "seed")
_KEYS = (
    "title",
    "base",
    "config",
    "seeds",
    "leave_one_out",
    "columns",
    "methods",
    "references",
    "distances",
    "published",
    "presets",
)


def find_grid(name: str) -> Path:
    """Find a grid: a file, or the name of a grid shipped with the package, such as `table1`.

    Raises:
        ConfigError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in Path(_presets_folder()).glob("*.toml")}
    if name in shipped:
        return shipped[name]
    if path.suffix == ".toml":
        raise ConfigError(f"cannot read the grid {name}: no such file")
    raise ConfigError(f"unknown grid {name!r}; {nearest_name(name, sorted(shipped))}")


def load_grid(path: Path, preset: str | None = None) -> Grid:
    """Read a grid and check every cell's configuration.

    Args:
        path: TOML file.
        preset: The `[presets.NAME]` of the file to merge into it; None if it has none, or only one.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown, a value has the wrong type, or a
            cell's configuration is wrong.
    """
    table = _with_preset(path, read_toml(path), preset)
    _check_keys(f"{path}", table, _KEYS)
    config = _read_section(table, "config")
    if "base" in table:
        base = _read_typed(table, "base", str, "a file name or the name of a preset")
        below = find_preset(base) if base in PRESETS else read_toml(path.parent / base)
        config = merge_tables(below, config)
    columns = _read_columns(_read_section(table, "columns"))
    grid = Grid(
        title=_read_typed(table, "title", str, "a string", path.stem),
        config=config,
        columns=columns,
        methods=_read_methods(_read_section(table, "methods"), [column.name for column in columns]),
        seeds=read_seeds(table.get("seeds", 3)),
        leave_one_out=_read_typed(table, "leave_one_out", bool, "true or false", False),
        references=_read_strings("references", table.get("references", [])),
        distances=_read_typed(table, "distances", bool, "true or false", False),
        published=_read_published(_read_section(table, "published")),
    )
    _check_references(grid)
    for column in grid.columns:
        for method in grid.methods:
            cell_config(grid, column, method, grid.seeds[0])
    return grid


def dump_grid(grid: Grid) -> str:
    """Write a grid as TOML with base and preset merged, so that it can be run again."""
    methods = {
        method.name: {
            **method.settings,
            **({"anchor": method.anchor} if method.anchor else {}),
            **({"columns": list(method.columns)} if method.columns else {}),
        }
        for method in grid.methods
    }
    return tomli_w.dumps(
        {
            "title": grid.title,
            "seeds": list(grid.seeds),
            "leave_one_out": grid.leave_one_out,
            "references": list(grid.references),
            "distances": grid.distances,
            "config": grid.config,
            "columns": {column.name: column.settings for column in grid.columns},
            "methods": methods,
            "published": grid.published or {},
        }
    )


def read_seeds(value: Any) -> tuple[int, ...]:  # noqa: ANN401 - checked here
    """Read a number of seeds, or a list of them.

    Raises:
        ConfigError: If there is none, one occurs twice, or one is not a seed.
    """
    numbers = list(range(min(value, MAX_SEEDS + 1))) if type(value) is int else value
    if not isinstance(numbers, list) or not all(type(seed) is int for seed in numbers):
        raise ConfigError(f"seeds must be a number of seeds or a list of them, got {value!r}")
    if not 1 <= len(numbers) <= MAX_SEEDS or len(set(numbers)) < len(numbers):
        raise ConfigError(f"seeds must be 1 to {MAX_SEEDS} different seeds, got {value!r}")
    if any(not 0 <= seed < 2**63 for seed in numbers):
        raise ConfigError(f"seeds must be at least 0 and below 2^63, got {value!r}")
    return tuple(numbers)


def _presets_folder() -> str:
    return str(resources.files("fusseg.bench") / "presets")


def _with_preset(path: Path, table: dict[str, Any], preset: str | None) -> dict[str, Any]:
    presets = _read_section(table, "presets")
    if not presets:
        if preset is not None:
            raise ConfigError(f"{path} has no presets; leave out --preset {preset}")
        return table
    if preset is None and len(presets) == 1:
        preset = next(iter(presets))
    if preset is None:
        raise ConfigError(f"{path.stem} needs --preset; choose one of {', '.join(presets)}")
    if preset not in presets:
        raise ConfigError(f"unknown preset {preset!r}; {nearest_name(preset, presets)}")
    chosen = presets[preset]
    if not isinstance(chosen, Mapping):
        raise ConfigError(f"presets.{preset} must be a table, got {chosen!r}")
    rest = {name: value for name, value in table.items() if name != "presets"}
    return merge_tables(rest, chosen)


def _check_references(grid: Grid) -> None:
    for name in grid.references:
        if name not in grid.method_names:
            raise ConfigError(
                f"references: unknown method {name!r}; {nearest_name(name, grid.method_names)}"
            )
    for row, figures in (grid.published or {}).items():
        if row not in grid.method_names:
            raise ConfigError(
                f"published: unknown method {row!r}; {nearest_name(row, grid.method_names)}"
            )
        _check_keys(f"published.{row}", figures, grid.column_names)


def _read_columns(table: Mapping[str, Any]) -> tuple[Column, ...]:
    """Read the columns; a grid that lists none has one."""
    for name, settings in table.items():
        _check_table(f"columns.{name}", settings)
        _check_keys(f"column {name!r}", settings, _SECTIONS)
    if not table:
        return (Column(SINGLE_COLUMN, {}),)
    return tuple(Column(name, settings) for name, settings in table.items())


def _read_methods(table: Mapping[str, Any], columns: Sequence[str]) -> tuple[Method, ...]:
    if not table:
        raise ConfigError("a grid needs at least one method; add [methods.NAME]")
    methods = []
    for name, settings in table.items():
        _check_table(f"methods.{name}", settings)
        _check_keys(f"method {name!r}", settings, (*_SECTIONS, "anchor", "columns"))
        anchor = settings.get("anchor")
        if anchor is not None and anchor not in get_args(Anchor):
            raise ConfigError(
                f"methods.{name}.anchor must be one of {', '.join(get_args(Anchor))}, "
                f"got {anchor!r}"
            )
        restricted = _read_strings(f"methods.{name}.columns", settings.get("columns", []))
        for column in restricted:
            if column not in columns:
                raise ConfigError(
                    f"methods.{name}.columns: unknown column {column!r}; "
                    f"{nearest_name(column, columns)}"
                )
        rest = {key: settings[key] for key in settings if key in _SECTIONS}
        methods.append(Method(name, rest, anchor, restricted))
    return tuple(methods)


def _read_published(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
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


def _check_keys(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}; {nearest_name(name, known)}")


def _check_table(key: str, value: Any) -> None:  # noqa: ANN401 - checked here
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a table, got {value!r}")


def _read_section(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Read a table; a missing one is empty."""
    value = table.get(key, {})
    _check_table(key, value)
    return dict(value)


def _read_typed(
    table: Mapping[str, Any], key: str, kind: type[Kind], words: str, default: Kind | None = None
) -> Kind:
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise ConfigError(f"{key} must be {words}, got {value!r}")
    return value


def _read_strings(key: str, value: Any) -> tuple[str, ...]:  # noqa: ANN401 - checked here
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ConfigError(f"{key} must be a list of strings, got {value!r}")
    return tuple(value)
