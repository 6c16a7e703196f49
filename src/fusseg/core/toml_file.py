"""TOML files that people write, with errors that say what to mend in an editor."""

import re
import tomllib
from pathlib import Path
from typing import Any


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as nested tables.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no UTF-8 or no TOML; the text says where.
        RecursionError: If its lists are too deep.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(error.object[: error.start]) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:  # UTF-16 without a mark in front of it
        raise _not_utf8(content[: content.index(0)])
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{error}{_backslash_mend(str(error), text)}") from error


def _not_utf8(before: bytes) -> ValueError:
    line = before.count(b"\n") + 1
    return ValueError(f"line {line}: not UTF-8; save the file as UTF-8")


def _backslash_mend(message: str, text: str) -> str:
    """Say how a path of Windows is written, where the error is on a line with a backslash."""
    line = re.search(r"\(at line (\d+),", message)
    if line is None or "\\" not in text.split("\n")[int(line[1]) - 1]:
        return ""
    return "; write a backslash in single quotes, or use /"
