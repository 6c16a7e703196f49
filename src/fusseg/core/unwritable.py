"""Which failures to write concern one file, and which would meet the next one as well."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

from fusseg.core.errors import DataError

_CONCERNS_ALL = {ENOSPC, EDQUOT, EROFS, EIO, EMFILE, ENFILE, ENOMEM}


class UnwritableError(DataError):
    """What belongs to one image cannot be written; what belongs to others may be."""


@contextmanager
def blaming(files: Iterable[Path]) -> Iterator[None]:
    """Turn a failure to write the files of one image, all in one folder, into a DataError.

    Raises:
        UnwritableError: If it concerns these files alone: a name that is too long, a folder that is
            closed or no folder.
        DataError: If nothing more can be written, as on a full disk.
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
