"""Errors that fusseg raises on purpose.

FussegError
├── ConfigError (ValueError)  a setting is out of range or unknown
├── DataError                 an image, mask or cache file is missing or malformed
└── FederationError           the clients' updates cannot be combined
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FussegError(Exception):
    """Base of every error fusseg raises on purpose."""


class ConfigError(FussegError, ValueError):
    """A setting is out of range or unknown."""


class DataError(FussegError):
    """An image, mask or cache file is missing or malformed."""


class FederationError(FussegError):
    """The clients' updates cannot be combined into one state."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's text, or the name of its class if it has no text.

    Examples:
        >>> first_line(ValueError("no such file.\nMore follows."))
        'no such file'
        >>> first_line(KeyboardInterrupt())
        'KeyboardInterrupt'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Suggest the known name closest to a misspelled one; the text ends an error message.

    Examples:
        >>> nearest_name("fedagv", ["fedavg", "lloyd", "pca"])
        "did you mean 'fedavg'?"
        >>> nearest_name("x", ["fedavg", "lloyd", "pca"])
        'choose one of fedavg, lloyd, pca'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of {', '.join(known)}"
