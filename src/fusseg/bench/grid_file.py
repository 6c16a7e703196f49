"""Grids as TOML: found, read, checked, and written back whole."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from fusseg.bench.grid import Grid, cell_config
from fusseg.bench.grid_sections import (
    check_keys,
    read_columns,
    read_methods,
    read_published,
    read_section,
    read_seeds,
    read_strings,
    read_typed,
)
from fusseg.config.file import merge_tables, read_toml
from fusseg.core.errors import ConfigError, nearest_name

_KEYS = (
    "title",
    "base",
    "config",
    "seeds",
    "leave_one_out",
    "columns",
    "methods",
    "references",
    "published",
    "presets",
)


def find_grid(name: str) -> Path:
    """Find a grid: a file, or one of those shipped with the package, such as `table1`.

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
        preset: Which of its `[presets.NAME]` is laid over it; None where it has none, or one.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown, a value has the wrong type, or a
            cell's configuration is wrong.
    """
    table = _with_preset(path, read_toml(path), preset)
    check_keys(f"{path}", table, _KEYS)
    config = read_section(table, "config")
    if "base" in table:
        base = read_typed(table, "base", str, "a file name")
        config = merge_tables(read_toml(path.parent / base), config)
    columns = read_columns(read_section(table, "columns"))
    grid = Grid(
        title=read_typed(table, "title", str, "a string", path.stem),
        config=config,
        columns=columns,
        methods=read_methods(read_section(table, "methods"), [column.name for column in columns]),
        seeds=read_seeds(table.get("seeds", 3)),
        leave_one_out=read_typed(table, "leave_one_out", bool, "true or false", False),
        references=read_strings("references", table.get("references", [])),
        published=read_published(read_section(table, "published")),
    )
    _check_references(grid)
    for column in grid.columns:
        for method in grid.methods:
            cell_config(grid, column, method, grid.seeds[0])
    return grid


def dump_grid(grid: Grid) -> str:
    """Write a grid as TOML with everything resolved, so that it can be run again."""
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
            "config": grid.config,
            "columns": {column.name: column.settings for column in grid.columns},
            "methods": methods,
            "published": grid.published or {},
        }
    )


def _presets_folder() -> str:
    return str(resources.files("fusseg.bench") / "presets")


def _with_preset(path: Path, table: dict[str, Any], preset: str | None) -> dict[str, Any]:
    presets = read_section(table, "presets")
    if not presets:
        if preset is not None:
            raise ConfigError(f"{path} has no presets; drop --preset {preset}")
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
        check_keys(f"published.{row}", figures, grid.column_names)
