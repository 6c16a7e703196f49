"""Text for a terminal or a page, without characters that hide or reorder what a reader sees."""

import re
import sys

LONGEST_REASON = 500
"""Most characters of a reason that is sent to another machine, a log or a record."""
_CUT = "..."
_UNUSUAL = re.compile(r"[^ -~]")


def visible(text: str, keep: str = "") -> str:
    r"""Escape control characters, direction marks and other characters that cannot be printed.

    Names of sites, images and classes come from other people. Unescaped, they could move the
    cursor, color the terminal, start a new line or reverse the reading direction.

    Args:
        text: Any text.
        keep: Characters that are not escaped.

    Returns:
        The text, each such character replaced by its escape sequence as in Python.

    Examples:
        >>> visible("site\u202etxt")
        'site\\u202etxt'
    """

    def escape(match: re.Match[str]) -> str:
        sign = match[0]
        shown = sign.isprintable() or sign in keep
        return sign if shown else sign.encode("unicode_escape").decode()

    return _UNUSUAL.sub(escape, text)


def brief(text: str, most: int = LONGEST_REASON) -> str:
    r"""Escape a text and cut it to `most` characters; three dots mark a cut.

    Examples:
        >>> brief("a line\nand another", 12)
        'a line\\na...'
    """
    # Cut twice: before, because escaping takes time, and after, because it makes a text longer.
    found = visible(text[: most + 1])
    return found if len(found) <= most else found[: most - len(_CUT)] + _CUT


def shown(value: object, most: int = 50) -> str:
    """Return the `repr` of a value, cut to `most` characters, however large the value is."""
    if isinstance(value, str | bytes | list | tuple):
        value = value[:most]
    try:
        return repr(value)[:most]
    except (ValueError, RecursionError):
        # Python refuses to print integers of more than 4,300 digits and lists nested too deeply.
        return f"a value of type {type(value).__name__} that is too large to show"


def say(text: str = "", *, error: bool = False) -> None:
    """Print a text of one or more lines, on standard error if it is an error."""
    print(visible(text, keep="\n"), file=sys.stderr if error else sys.stdout)
