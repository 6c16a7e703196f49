"""The file `classes.toml`: names, values and colors of the classes in masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusseg.core.errors import DataError, nearest_name
from fusseg.core.toml_file import load_toml
from fusseg.data.items import NO_CLASS, Classes

MAX_CLASSES = 255

_KEYS = ("names", "values", "ignore_index", "colors")


def read_classes(path: Path) -> Classes:
    """Read names, ignored value and colors.

    Raises:
        DataError: If the file cannot be read, a key is unknown, or a value is out of range.
    """
    try:
        return _classes(load_toml(path), path)
    except OSError as error:
        raise DataError(f"classes cannot be read ({error.strerror}): {path}") from error
    except (ValueError, RecursionError) as error:
        # Also too long integers and too deep lists, in the parser or in one of our messages.
        raise DataError(f"classes are not valid TOML ({error}): {path}") from error


def _classes(table: dict[str, Any], path: Path) -> Classes:
    for key in table:
        if key not in _KEYS:
            raise DataError(f"unknown key {key!r}; {nearest_name(key, _KEYS)}: {path}")
    names = _names(table, path)
    colors = _colors(table, names, path)
    values = _values(table, names, path)
    ignored = _ignore_index(table, values, names, path)
    if "values" not in table:
        return Classes(names, ignored, colors)
    index_of = [NO_CLASS] * 256
    for index, value in enumerate(values):
        index_of[value] = index
    if ignored is None:
        return Classes(names, None, colors, tuple(index_of))
    # Any pixel value may be the ignored one here; its index must not be that of a class.
    index_of[ignored] = MAX_CLASSES
    return Classes(names, MAX_CLASSES, colors, tuple(index_of))


def _names(table: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = table.get("names")
    if not isinstance(names, list) or not names or not all(_is_name(name) for name in names):
        raise DataError(f"names must be a list of at least one class name, got {names!r}: {path}")
    if len(names) > MAX_CLASSES:
        raise DataError(f"names must be at most {MAX_CLASSES}, got {len(names)}: {path}")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"names must differ, got {name!r} twice: {path}")
    return tuple(names)


def _values(table: dict[str, Any], names: tuple[str, ...], path: Path) -> Sequence[int]:
    """Read the pixel value of each class: as in the table, or 0, 1, 2 and so on."""
    if "values" not in table:
        return range(len(names))
    values = table["values"]
    if not isinstance(values, list) or len(values) != len(names):
        got = len(values) if isinstance(values, list) else repr(values)
        raise DataError(f"values must be one per name, {len(names)} in all, got {got}: {path}")
    for value in values:
        if not _is_byte(value):
            raise DataError(f"a value must be an integer in [0, 255], got {value!r}: {path}")
        if values.count(value) > 1:
            raise DataError(f"values must differ, got {value} twice: {path}")
    return values


def _ignore_index(
    table: dict[str, Any], values: Sequence[int], names: tuple[str, ...], path: Path
) -> int | None:
    if "ignore_index" not in table:
        return None
    value = table["ignore_index"]
    if not _is_byte(value):
        raise DataError(f"ignore_index must be an integer in [0, 255], got {value!r}: {path}")
    if value in values:
        other = "another value" if "values" in table else f"a value from {len(names)} on"
        raise DataError(
            f"ignore_index {value} is the class {names[values.index(value)]!r}; "
            f"choose {other}: {path}"
        )
    return int(value)


def _colors(
    table: dict[str, Any], names: tuple[str, ...], path: Path
) -> tuple[tuple[int, int, int], ...] | None:
    if "colors" not in table:
        return None
    colors = table["colors"]
    if not isinstance(colors, list) or len(colors) != len(names):
        got = len(colors) if isinstance(colors, list) else repr(colors)
        raise DataError(f"colors must be one per name, {len(names)} in all, got {got}: {path}")
    for color in colors:
        if not isinstance(color, list) or len(color) != 3 or not all(map(_is_byte, color)):
            raise DataError(f"a color must be three integers in [0, 255], got {color!r}: {path}")
    return tuple((red, green, blue) for red, green, blue in colors)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
