"""Files that never replace others: keys, and what belongs to them."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from fusseg.core.errors import ConfigError

PRIVATE, PUBLIC = 0o600, 0o644
"""Modes of files: for their owner only, or for all to read."""


def write_new(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Write files with their modes, all or none of them, and none over an existing one.

    Raises:
        ConfigError: If a file exists, or cannot be written.
    """
    for path in files:
        if os.path.lexists(path):
            raise _exists(path)
    written: list[Path] = []
    for path, (content, mode) in files.items():
        try:
            _make_folder(path.parent)
            _write_one(path, content, mode)
        except BaseException as error:
            for done in written:
                done.unlink(missing_ok=True)
            if isinstance(error, FileExistsError):
                raise _exists(path) from error
            if isinstance(error, OSError):
                raise ConfigError(f"cannot write {path}: {error.strerror}") from error
            raise
        written.append(path)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} must be a folder, got a file; choose another") from error


def _write_one(path: Path, content: bytes, mode: int) -> None:
    # Unlike `fusseg.core.files`: with the mode from the start, and a link, which unlike a rename
    # never replaces a file that someone else has just written.
    temporary = path.parent / f".{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists, and a key is never overwritten; move it away or choose another folder"
    )
