"""Numbers as the report prints them."""

from collections.abc import Collection
from dataclasses import dataclass

ABSENT = "\N{EN DASH}"
"""Stands where a record has no value."""


def score(value: float | int | None) -> str:
    """Print a score in [0, 1] or a cosine with three decimals."""
    return ABSENT if value is None else _with_minus(f"{value:.3f}")


def loss(value: float | int | None) -> str:
    """Print a loss with four decimals."""
    return ABSENT if value is None else _with_minus(f"{value:.4f}")


def share(value: float | int) -> str:
    """Print a share in [0, 1] as a percentage."""
    return f"{100 * value:.1f} %"


def count(value: int) -> str:
    """Print a whole number with its thousands apart."""
    return f"{value:,}"


def size(num_bytes: int) -> str:
    """Print a number of bytes in its natural unit (kB = 1000 B)."""
    unit, divisor = byte_unit(num_bytes)
    return f"{num_bytes} B" if divisor == 1 else f"{num_bytes / divisor:.1f} {unit}"


def byte_unit(num_bytes: int) -> tuple[str, int]:
    """Choose the natural unit of a number of bytes, and how many bytes it is."""
    unit, divisor = "B", 1
    for larger in ("kB", "MB", "GB", "TB"):
        if num_bytes / divisor < 999.95:
            break
        unit, divisor = larger, 1000 * divisor
    return unit, divisor


def duration(seconds: float | int) -> str:
    """Print a time span as seconds, minutes or hours."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def listing(names: list[str], longest: int = 8) -> str:
    """Join names as in a sentence; what is too many is counted."""
    if len(names) > longest:
        return f"{', '.join(names[: longest - 1])} and {len(names) - longest + 1} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def plural(number: int, noun: str) -> str:
    """Print a number of things."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def _with_minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class ScoredNames:
    """Names in the singular."""

    image: str
    site: str


def name_scored(held_out: Collection[bool]) -> ScoredNames:
    """Say whether what is scored was held out; in neutral words where runs differ in it.

    Args:
        held_out: Of each run on the page; where nothing is held out, the images that train are
            scored.
    """
    if all(held_out):
        return ScoredNames("held-out image", "held-out site")
    return ScoredNames("scored image" if any(held_out) else "training image", "site")
