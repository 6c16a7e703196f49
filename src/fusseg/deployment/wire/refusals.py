"""Refuse a bad message from another machine without affecting anything else."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fusseg.core.errors import FederationError
from fusseg.core.visible_text import brief, visible

LOG = logging.getLogger(__name__)


@contextmanager
def refusing(what: str, passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Turn every error in reading or checking a message into a refusal of that message.

    Args:
        what: The message, for the log.
        passing: Errors that the message did not cause; they are raised unchanged.

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
        # No check anticipated this error: it may be a bug, so its traceback is logged.
        log_error(f"cannot read {what}", error)
        reason = f"the message cannot be read: {type(error).__name__}: {error}"
        raise FederationError(brief(reason)) from error


def log_error(text: str, error: BaseException) -> None:
    """Log an error with its traceback and its text, shortened.

    Unlike the traceback of `logging`, this is safe if the text contains what another machine sent.
    """
    parts = [visible(text)]
    for one in _chain(error):
        parts += [
            *traceback.format_tb(one.__traceback__),
            f"{type(one).__name__}: {brief(str(one))}\n",
        ]
    LOG.error("%s\n%s", parts[0], "".join(parts[1:]))


def _chain(error: BaseException) -> list[BaseException]:
    """List the causes of an error, followed by the error."""
    found = [error]
    while (earlier := found[0].__cause__ or found[0].__context__) is not None and len(found) < 9:
        found.insert(0, earlier)
    return found
