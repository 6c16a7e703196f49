"""Refusing what another machine sent, whatever is wrong with it, without ending anything else."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief, visible

LOG = logging.getLogger(__name__)


@contextmanager
def refusing(what: str, passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Turn every error while a message is read and checked into a refusal of that message.

    Args:
        what: Which message, for the log.
        passing: Errors that are no fault of the message; they pass through.

    Raises:
        FederationError: The refusal, with a reason of bounded length.
    """
    try:
        yield
    except FederationError as error:
        raise FederationError(brief(str(error))) from error
    except passing:
        raise
    except Exception as error:
        # No check foresaw it: it may be a bug, and a bug keeps its traceback.
        log_error(f"cannot read {what}", error)
        reason = f"the message cannot be read: {type(error).__name__}: {error}"
        raise FederationError(brief(reason)) from error


def log_error(text: str, error: BaseException) -> None:
    """Log an error with the lines of code it came through and, of bounded length, its text.

    As `logging` writes a traceback, but what another machine sent may be part of the text.
    """
    parts = [visible(text)]
    for one in _chain(error):
        parts += [
            *traceback.format_tb(one.__traceback__),
            f"{type(one).__name__}: {brief(str(one))}\n",
        ]
    LOG.error("%s\n%s", parts[0], "".join(parts[1:]))


def _chain(error: BaseException) -> list[BaseException]:
    """List an error after those it came from."""
    found = [error]
    while (earlier := found[0].__cause__ or found[0].__context__) is not None and len(found) < 9:
        found.insert(0, earlier)
    return found
