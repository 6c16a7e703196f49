"""Writing files: whole or not at all, and which failures concern only one of them."""

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import (
    EDQUOT,
    EIO,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
    ENOMEM,
    ENOSPC,
    EROFS,
)
from pathlib import Path
from typing import BinaryIO

from fusseg.core.errors import DataError

_CONCERNS_ALL = {ENOSPC, EDQUOT, EROFS, EIO, EMFILE, ENFILE, ENOMEM}


class UnwritableError(DataError):
    """The files of one image cannot be written; those of other images may be."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers, also after a crash, see either the old or the new content."""
    with open_atomically(path) as file:
        file.write(content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write piece by piece; it replaces the target once the block succeeds."""
    # Not the name and something more: that could be too long where the name itself is not.
    temporary = path.parent / f".{secrets.token_hex(8)}"
    try:
        # Not `tempfile`: its files are not readable by a group that shares the folder.
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def is_temporary(path: Path) -> bool:
    """Tell whether a file is what a killed process left of an unfinished write."""
    return re.fullmatch(r"\.[0-9a-f]{16}", path.name) is not None


def append_whole_line(path: Path, content: bytes) -> None:
    """Append a line to a file readable only by its owner, and flush it to disk.

    Args:
        path: The file, created if it does not exist.
        content: The line, without its line break.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        # A line that a crash cut short must not swallow this one.
        size = os.fstat(descriptor).st_size
        whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
        rest = memoryview(content + b"\n" if whole else b"\n" + content + b"\n")
        while rest:
            # On a full disk, part of a line may be written without an error.
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def blaming(files: Iterable[Path]) -> Iterator[None]:
    """Turn a failure to write one image's files, all in one folder, into a DataError.

    Raises:
        UnwritableError: If only these files are affected: a name is too long, or the folder is
            not writable or not a folder.
        DataError: If no other file could be written either, for example on a full disk.
    """
    try:
        yield
    except OSError as error:
        longest = max(files, key=lambda file: len(os.fsencode(file.name)))
        reason = error.strerror or str(error)
        if error.errno in _CONCERNS_ALL:
            raise DataError(f"cannot write {longest.parent}: {reason}") from error
        if error.errno == ENAMETOOLONG:
            reason += (
                f": {longest.name} has {len(os.fsencode(longest.name))} bytes; rename the image"
            )
        raise UnwritableError(f"cannot write to {longest.parent}: {reason}") from error


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk too, or a power cut could bring the old file back.
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
