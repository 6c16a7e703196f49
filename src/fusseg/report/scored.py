"""What pages call the images and sites that are scored."""

from collections.abc import Collection
from dataclasses import dataclass


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
