"""Files that commands write for people: pages, tables, figures."""

from pathlib import Path

from fusseg.core.errors import DataError
from fusseg.core.files import write_atomically


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def write_page(path: Path, page: str) -> None:
    """Write an HTML page, in a folder that is made if it is missing.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    write_output(path, page.encode())
