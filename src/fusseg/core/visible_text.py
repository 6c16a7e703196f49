"""Text for a terminal or a page, without characters that hide or reorder what a reader sees."""

import re
import sys

LONGEST_REASON = 500
"""Characters of a reason that another machine, a log or a record gets."""
_CUT = "..."
_UNUSUAL = re.compile(r"[^ -~]")


def visible(text: str, keep: str = "") -> str:
    r"""Escape control characters, direction marks and other characters that cannot be printed.

    Names of sites, images and classes come from others. Left as they are, they could move the
    cursor, color a terminal, begin a line of their own or turn the direction of reading.

    Args:
        text: Any text.
        keep: Characters that stay as they are.

    Returns:
        The text in which each such character is its escape sequence, as in Python.

    >>> visible("site\u202etxt")
    'site\\u202etxt'
    """

    def escape(match: re.Match[str]) -> str:
        sign = match[0]
        shown = sign.isprintable() or sign in keep
        return sign if shown else sign.encode("unicode_escape").decode()

    return _UNUSUAL.sub(escape, text)


def brief(text: str, most: int = LONGEST_REASON) -> str:
    """Escape a text and cut it to so many characters; one that is cut ends with three dots."""
    # Cut twice: before, since escaping takes time, and after, since it makes a text longer.
    found = visible(text[: most + 1])
    return found if len(found) <= most else found[: most - len(_CUT)] + _CUT


def shown(value: object, most: int = 50) -> str:
    """Write a value as Python does, cut to so many characters, however large it is."""
    if isinstance(value, str | bytes | list | tuple):
        value = value[:most]
    try:
        return repr(value)[:most]
    except (ValueError, RecursionError):
        # Python writes no whole numbers of more than 4,300 digits, and no lists too deep.
        return f"a value of type {type(value).__name__} that is too large to show"


def say(text: str = "", *, error: bool = False) -> None:
    """Print a text of one or more lines, on standard error if it is an error."""
    print(visible(text, keep="\n"), file=sys.stderr if error else sys.stdout)
