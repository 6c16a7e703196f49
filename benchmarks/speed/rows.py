"""One line of the table of speed: figures, target, and how the two agree."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.speed.explanations import EXPLANATIONS, Explanations, Quantity

Status = Literal["met", "explained", "short", "not measurable here"]


@dataclass(frozen=True)
class Limit:
    """What a row has to keep to."""

    of: Quantity
    bound: float | int
    at_least: bool = False
    """Whether more is better."""
    says: str = ""
    """Its words; empty: made of the others."""

    def holds(self, value: float | int, bound: float | int | None = None) -> bool:
        """Whether a value keeps to it, or to another bound in its place."""
        bound = self.bound if bound is None else bound
        return value >= bound if self.at_least else value <= bound

    def __str__(self) -> str:
        relation = "at least" if self.at_least else "at most"
        return self.says or f"{self.of} {relation} {self.bound:g}"


@dataclass(frozen=True)
class Figures:
    """What was measured; None: does not apply."""

    seconds: float | None = None
    floor_seconds: float | None = None
    """Of the matrix products alone, or of what the note names."""
    ratio: float | None = None
    """None: of the seconds, if there are both."""
    peak_bytes: int | None = None
    """Anonymous resident memory of the process during the stage, at its highest."""
    gflop: float | None = None
    """Arithmetic of the matrix products, in 10^9 operations."""
    gflop_per_second: float | None = None
    """Of the reference product in the same process and precision."""

    @property
    def found_ratio(self) -> float | None:
        """The ratio as given, else seconds over floor; None where there is neither."""
        if self.ratio is None and self.seconds is not None and self.floor_seconds:
            return self.seconds / self.floor_seconds
        return self.ratio


@dataclass(frozen=True)
class SpeedRow:
    """One line of the table."""

    name: str
    size: str
    seconds: float | None
    floor_seconds: float | None
    ratio: float | None
    target: str
    status: Status
    note: str
    peak_bytes: int | None = None
    gflop: float | None = None
    gflop_per_second: float | None = None


def speed_row(
    name: str,
    size: str,
    figures: Figures,
    limit: Limit,
    note: str = "",
    conditions: tuple[str, ...] = (),
    explanations: Explanations = EXPLANATIONS,
) -> SpeedRow:
    """Set figures against their limit.

    Args:
        name: Of the row.
        size: Of what was measured, in words.
        figures: What was measured.
        limit: What it has to keep to.
        note: What else there is to know.
        conditions: Device and sizes, for which an explanation may be written.
        explanations: Why limits may be missed.

    Raises:
        ValueError: If the figure that the limit is about was not measured.
    """
    measured = {
        "ratio": figures.found_ratio,
        "seconds": figures.seconds,
        "peak_bytes": figures.peak_bytes,
    }
    value = measured[limit.of]
    if value is None:
        raise ValueError(f"row {name!r} has a limit on {limit.of}, which was not measured")
    if limit.holds(value):
        return _row(name, size, figures, str(limit), "met", note)
    for condition in conditions:
        explanation = explanations.get((name, condition))
        if explanation is not None and limit.holds(value, explanation.up_to):
            text = "; ".join(filter(None, (explanation.text, note)))
            return _row(name, size, figures, str(limit), "explained", text)
    return _row(name, size, figures, str(limit), "short", note)


def untargeted_row(name: str, size: str, figures: Figures, note: str) -> SpeedRow:
    """Show figures that have no target, for comparison; the note says why there is none."""
    return _row(name, size, figures, "none", "explained", note)


def missing_row(name: str, size: str, limit: Limit, reason: str) -> SpeedRow:
    """Say why a row cannot be measured on this machine."""
    return SpeedRow(name, size, None, None, None, str(limit), "not measurable here", reason)


def _row(
    name: str, size: str, figures: Figures, target: str, status: Status, note: str
) -> SpeedRow:
    return SpeedRow(
        name=name,
        size=size,
        seconds=figures.seconds,
        floor_seconds=figures.floor_seconds,
        ratio=figures.found_ratio,
        target=target,
        status=status,
        note=note,
        peak_bytes=figures.peak_bytes,
        gflop=figures.gflop,
        gflop_per_second=figures.gflop_per_second,
    )
