"""Files that are there whole or not at all."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one only."""
    with open_atomically(path) as file:
        file.write(content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write piece by piece; it takes its place when the block ends without error."""
    # Not the name and something more: that could be too long where the name itself is not.
    temporary = path.parent / f".{secrets.token_hex(8)}"
    try:
        # Not a file of `tempfile`: those are closed to a group that shares the folder.
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
    """Tell whether a file was being written when a kill came."""
    return re.fullmatch(r"\.[0-9a-f]{16}", path.name) is not None


def append_whole_line(path: Path, content: bytes) -> None:
    """Append a line to a file that only its owner can read; it is on disk before this returns.

    Args:
        path: Made if it is not there.
        content: Without a line break.
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


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk too, or a power cut could bring the old file back.
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
