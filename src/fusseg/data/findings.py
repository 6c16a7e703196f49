"""Findings: errors, warnings and notes about the data, one at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusseg.data.items import Item

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One error, warning or note, as from `check_sites`."""

    severity: Severity
    """`error`: a run or its evaluation would fail; `warning`: it would run, but not as intended."""
    subject: str
    """File, site or setting that it is about."""
    message: str


def item_name(item: Item) -> str:
    """Name an image by its site and file."""
    return f"{item.site}/{item.image.name if isinstance(item.image, Path) else item.stem}"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun.

    Examples:
        >>> counted(1, "image"), counted(3, "image")
        ('1 image', '3 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
