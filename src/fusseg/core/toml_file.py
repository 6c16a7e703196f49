"""Reading TOML files written by hand, with errors that say what to fix."""

import re
import tomllib
from pathlib import Path
from typing import Any


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as nested tables.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not UTF-8 or not TOML; the message names the line.
        RecursionError: If its lists are nested too deeply.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(error.object[: error.start]) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:  # UTF-16 without a byte order mark
        raise _not_utf8(content[: content.index(0)])
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{error}{_backslash_hint(str(error), text)}") from error


def _not_utf8(before: bytes) -> ValueError:
    line = before.count(b"\n") + 1
    return ValueError(f"line {line}: not UTF-8; save the file as UTF-8")


def _backslash_hint(message: str, text: str) -> str:
    """Say how to write a Windows path if the faulty line contains a backslash."""
    line = re.search(r"\(at line (\d+),", message)
    if line is None or "\\" not in text.split("\n")[int(line[1]) - 1]:
        return ""
    return "; write a backslash in single quotes, or use /"
