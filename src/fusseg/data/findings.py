"""What a look at the data has to say, one thing at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusseg.data.items import Item

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that `check_sites` has to say."""

    severity: Severity
    """`error`: a run or its evaluation would fail; `warning`: it would run, but not as meant."""
    subject: str
    """The file, site or setting it is about."""
    message: str


def item_name(item: Item) -> str:
    """Name an image by its site and file."""
    return f"{item.site}/{item.image.name if isinstance(item.image, Path) else item.stem}"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
