"""Why a row may miss its target: the short form of the paragraphs in docs/speed.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Quantity = Literal["ratio", "seconds", "peak_bytes"]


@dataclass(frozen=True)
class Explanation:
    """Why a target is missed, and how far that reason goes."""

    text: str
    up_to: float | int
    """A value beyond this one is short all the same."""


Explanations = Mapping[tuple[str, str], Explanation]
EXPLANATIONS: Explanations = {
    ("a round, server side", "quick"): Explanation(
        "a quick round has few steps, and the server's work does not grow with them", up_to=0.05
    ),
}
"""By name of the row and condition: the device (`cpu`, `cuda`) or the sizes (`full`, `quick`)."""
