"""A grid: the configurations behind a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fusseg.config.file import merge_tables, parse_config
from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.federation.strategies import resolve

Settings = Mapping[str, Any]
"""Nested tables of settings, as in a configuration file."""
Anchor = Literal["features", "pca"]


@dataclass(frozen=True)
class Method:
    """One row."""

    name: str
    settings: Settings
    """What the row sets, above its column."""
    anchor: Anchor | None = None
    """A training-free anchor that is fitted instead of a training."""
    columns: tuple[str, ...] = ()
    """Columns that have the row; empty: all."""


@dataclass(frozen=True)
class Column:
    """One setting of all rows, such as a number of clients."""

    name: str
    settings: Settings
    """What the column sets, above the grid's configuration."""


@dataclass(frozen=True)
class Grid:
    """Methods x columns x seeds."""

    title: str
    config: Settings
    columns: tuple[Column, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    leave_one_out: bool = False
    """Hold each site out in turn; a score is the mean over the held-out sites."""
    references: tuple[str, ...] = ()
    """Rows that the other rows are compared with, by paired differences."""
    distances: bool = False
    """Measure how different the clients of each column are."""
    published: Mapping[str, Mapping[str, float]] | None = None
    """The paper's mIoU in percent, by row and column."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def method_names(self) -> tuple[str, ...]:
        """Names of the rows, in order."""
        return tuple(method.name for method in self.methods)

    def has_cell(self, method: Method, column: str) -> bool:
        """Whether a column has a row."""
        return not method.columns or column in method.columns


def cell_config(grid: Grid, column: Column, method: Method, seed: int) -> Config:
    """Merge grid, column, row and seed into one configuration.

    Raises:
        ConfigError: If a key is unknown or a value is out of range; the message names the cell.
    """
    table = merge_tables(merge_tables(grid.config, column.settings), method.settings)
    try:
        config = parse_config({**table, "seed": seed})
        if method.anchor is None:
            resolve(config)
    except ConfigError as error:
        raise ConfigError(f"method {method.name!r}, column {column.name!r}: {error}") from error
    return config


def override_grid(grid: Grid, settings: Settings) -> Grid:
    """Change settings of all cells: they override grid and columns, but not methods.

    Raises:
        ConfigError: If a method sets the same key, which its name stands for.
    """
    for key in _keys(settings):
        if key == ("seed",):
            raise ConfigError("--set seed cannot be used with a grid; use --seeds")
        for method in grid.methods:
            if key in _keys(method.settings):
                raise ConfigError(
                    f"--set {'.'.join(key)} is set by the method {method.name!r}; change it in "
                    "the grid file"
                )
    columns = tuple(
        replace(column, settings=merge_tables(column.settings, settings)) for column in grid.columns
    )
    return replace(grid, columns=columns, config=merge_tables(grid.config, settings))


def check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names of rows or columns that are not in the grid.

    Raises:
        ConfigError: If a name is unknown.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {kind} {name!r}; {nearest_name(name, known)}")


def _keys(settings: Settings, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _keys(value, (*prefix, name))
        else:
            found.add((*prefix, name))
    return found
