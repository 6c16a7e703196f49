"""Conversion of one TOML value to the type of its setting."""

import sys
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from fusseg.core.errors import ConfigError

_WORDS = {int: "a whole number", float: "a finite number", str: "a string", bool: "true or false"}
_PLURALS = {int: "whole numbers", float: "finite numbers", str: "strings"}


def convert(key: str, value: Any, kind: Any) -> Any:  # noqa: ANN401 - whatever TOML holds
    """Convert a TOML value to the type that a setting is annotated with.

    Args:
        key: Dotted key of the setting, for the message.
        value: The value as read.
        kind: Annotation: `int`, `float`, `str`, `bool`, a `Literal`, tuple or dict, or a union.

    Returns:
        The value; whole numbers become floats and lists become tuples where the type asks for it.

    Raises:
        ConfigError: If the value has another type.

    Examples:
        >>> convert("local.epochs", 2, float | None)
        2.0
        >>> convert("data.image_size", [320], tuple[int, int])
        Traceback (most recent call last):
            ...
        fusseg.core.errors.ConfigError: data.image_size must be a list of 2 whole numbers, got [320]
    """
    for option in _options(kind):
        accepted, result = _accept(value, option)
        if accepted:
            return result
    raise ConfigError(f"{key} must be {_describe(kind)}, got {value!r}")


def _options(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401
    if get_origin(kind) in (Union, types.UnionType):
        return get_args(kind)
    return (kind,)


def _accept(value: Any, kind: Any) -> tuple[bool, Any]:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind), value
    if get_origin(kind) is tuple:
        return _accept_tuple(value, get_args(kind))
    if get_origin(kind) is dict:
        return _accept_table(value, get_args(kind)[1])
    if isinstance(value, bool) or kind is bool:
        # In Python bool is an int, but `rounds = true` is a mistake.
        return kind is bool and isinstance(value, bool), value
    if kind is float:
        # Compared before it is converted: a very long whole number has no float.
        number = isinstance(value, int | float) and abs(value) <= sys.float_info.max
        return number, float(value) if number else value
    return isinstance(kind, type) and isinstance(value, kind), value


def _accept_tuple(value: Any, kinds: tuple[Any, ...]) -> tuple[bool, Any]:  # noqa: ANN401
    if not isinstance(value, list | tuple):
        return False, value
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        return False, value
    parts = [_accept(part, kind) for part, kind in zip(value, kinds, strict=True)]
    return all(accepted for accepted, _ in parts), tuple(part for _, part in parts)


def _accept_table(value: Any, kind: Any) -> tuple[bool, Any]:  # noqa: ANN401
    if not isinstance(value, Mapping):
        return False, value
    parts = {name: _accept(part, kind) for name, part in value.items()}
    table = {name: part for name, (_, part) in sorted(parts.items())}
    return all(accepted for accepted, _ in parts.values()), table


def _describe(kind: Any) -> str:  # noqa: ANN401
    words = []
    for option in _options(kind):
        if get_origin(option) is Literal:
            words += [repr(choice) for choice in get_args(option)]
        elif get_origin(option) is tuple:
            words.append(_describe_list(get_args(option)))
        elif get_origin(option) is dict:
            words.append(f"a table of {_plural(get_args(option)[1])}")
        elif option is not type(None):
            words.append(_WORDS.get(option, str(option)))
    return " or ".join(words)


def _describe_list(kinds: tuple[Any, ...]) -> str:
    plural = _plural(kinds[0])
    return f"a list of {plural}" if kinds[-1] is Ellipsis else f"a list of {len(kinds)} {plural}"


def _plural(kind: Any) -> str:  # noqa: ANN401
    return _PLURALS.get(kind) or f"values, each {_describe(kind)}"
