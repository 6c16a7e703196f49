"""One row of the table: its figures, its target, and whether the target is met."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.speed.explanations import EXPLANATIONS, Explanations, Quantity

Status = Literal["met", "explained", "short", "not measurable here"]


@dataclass(frozen=True)
class Limit:
    """The target of a row."""

    of: Quantity
    bound: float | int
    at_least: bool = False
    """Whether the bound is a lower one."""
    says: str = ""
    """Text of the target; empty: made of the other fields."""

    def holds(self, value: float | int, bound: float | int | None = None) -> bool:
        """Whether a value is within the bound, or within another bound if one is given."""
        bound = self.bound if bound is None else bound
        return value >= bound if self.at_least else value <= bound

    def __str__(self) -> str:
        relation = "at least" if self.at_least else "at most"
        return self.says or f"{self.of} {relation} {self.bound:g}"


@dataclass(frozen=True)
class Figures:
    """Measured figures; None where a figure does not apply."""

    seconds: float | None = None
    floor_seconds: float | None = None
    """Seconds of the matrix products alone, or of the floor that the note names."""
    ratio: float | None = None
    """None: seconds over floor, if both were measured."""
    peak_bytes: int | None = None
    """Highest anonymous resident memory of the process during the stage."""
    gflop: float | None = None
    """Arithmetic of the matrix products, in 10^9 operations."""
    gflop_per_second: float | None = None
    """Rate of the reference product in the same process and precision."""

    @property
    def found_ratio(self) -> float | None:
        """The given ratio, else seconds over floor; None if there is neither."""
        if self.ratio is None and self.seconds is not None and self.floor_seconds:
            return self.seconds / self.floor_seconds
        return self.ratio


@dataclass(frozen=True)
class SpeedRow:
    """One row of the table."""

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
    """Compare figures with their limit.

    Args:
        name: Name of the row.
        size: Size of the measured work, in words.
        figures: Measured figures.
        limit: Target of the row.
        note: Remarks.
        conditions: Device and sizes; each may have an explanation.
        explanations: Reasons for which rows may miss their targets.

    Raises:
        ValueError: If the figure that the limit applies to was not measured.
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
    """Make a row without a target; the note says why it has none."""
    return _row(name, size, figures, "none", "explained", note)


def missing_row(name: str, size: str, limit: Limit, reason: str) -> SpeedRow:
    """Make a row that says why it cannot be measured on this machine."""
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
