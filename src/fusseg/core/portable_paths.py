"""Removing the folders of this machine from text that is shared."""

import re
from collections.abc import Mapping
from typing import Any

_QUOTED = re.compile(r"""(?P<quote>["'])(?P<kind>[\w.=-]*[:=])?/(?!/)[^"'\n]*(?P=quote)""")
_BARE = re.compile(r"""(?<![^\s"'=(,:\[])/(?!/)[^\s"',;:)\]]+""")


def without_folders(text: str) -> str:
    """Shorten each absolute path in a text to its last part.

    Relative paths and URLs are kept. A path with spaces is recognized only inside quotes.

    Examples:
        >>> without_folders("fusseg run '/home/jane doe/a.toml' --out /tmp/runs/a")
        "fusseg run 'a.toml' --out a"
    """
    text = _QUOTED.sub(_shorten_quoted, text)
    return _BARE.sub(lambda match: _last_part(match[0]), text)


def without_folders_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten each absolute path in settings to its last part, also in nested tables and lists.

    A path may have a prefix.

    Examples:
        >>> without_folders_in({"name": "onnx:/models/encoder.onnx", "start": "runs/a"})
        {'name': 'onnx:encoder.onnx', 'start': 'runs/a'}
    """
    return {key: _shorten_setting(value) for key, value in settings.items()}


def _shorten_setting(value: Any) -> Any:  # noqa: ANN401 - whatever a setting holds
    if isinstance(value, Mapping):
        return without_folders_in(value)
    if isinstance(value, list | tuple):
        return type(value)(_shorten_setting(entry) for entry in value)
    if not isinstance(value, str):
        return value
    prefix, path = re.fullmatch(r"(\w+:)?(.*)", value, re.DOTALL).groups("")  # type: ignore[union-attr]
    return prefix + _last_part(path) if path.startswith("/") else value


def _shorten_quoted(match: re.Match[str]) -> str:
    quote, kind = match["quote"], match["kind"] or ""
    path = match[0][len(quote) + len(kind) : -len(quote)]
    return f"{quote}{kind}{_last_part(path)}{quote}"


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or "/"
