"""Format numbers and words for the report."""

from collections.abc import Collection
from dataclasses import dataclass

ABSENT = "\N{EN DASH}"
"""Text for a missing value."""


def score(value: float | int | None) -> str:
    """Format a score in [0, 1] or a cosine with three decimals."""
    return ABSENT if value is None else _with_minus(f"{value:.3f}")


def loss(value: float | int | None) -> str:
    """Format a loss with four decimals."""
    return ABSENT if value is None else _with_minus(f"{value:.4f}")


def share(value: float | int) -> str:
    """Format a share in [0, 1] as a percentage."""
    return f"{100 * value:.1f} %"


def count(value: int | None) -> str:
    """Format an integer with thousands separators."""
    return ABSENT if value is None else f"{value:,}"


def size(num_bytes: int) -> str:
    """Format a number of bytes in a suitable unit (kB = 1000 B).

    >>> size(1_234_567)
    '1.2 MB'
    """
    unit, divisor = byte_unit(num_bytes)
    return f"{num_bytes} B" if divisor == 1 else f"{num_bytes / divisor:.1f} {unit}"


def byte_unit(num_bytes: int) -> tuple[str, int]:
    """Choose a suitable unit for a number of bytes, and return its size in bytes."""
    unit, divisor = "B", 1
    for larger in ("kB", "MB", "GB", "TB"):
        if num_bytes / divisor < 999.95:
            break
        unit, divisor = larger, 1000 * divisor
    return unit, divisor


def duration(seconds: float | int) -> str:
    """Format a duration in seconds, minutes or hours.

    >>> duration(75)
    '1 min 15 s'
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def listing(names: list[str], longest: int = 8) -> str:
    """Join names as in a sentence; a long list is cut off with the number of the rest.

    >>> listing(["north", "south", "west"])
    'north, south and west'
    """
    if len(names) > longest:
        return f"{', '.join(names[: longest - 1])} and {len(names) - longest + 1} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def plural(number: int, noun: str) -> str:
    """Format a number with its noun in the singular or plural."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def _with_minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class ScoredNames:
    """Names of the scored images and sites, in the singular."""

    image: str
    site: str


def name_scored(held_out: Collection[bool]) -> ScoredNames:
    """Name the scored images and sites; neutral names are used if the runs differ.

    Args:
        held_out: Whether each run on the page scores held-out images; otherwise it scores its
            training images.
    """
    if all(held_out):
        return ScoredNames("held-out image", "held-out site")
    return ScoredNames("scored image" if any(held_out) else "training image", "site")
