"""Read scores and cost of finished cells, and average them over held-out sites."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from fusseg.bench.cells import Cell, cell_progress
from fusseg.core.errors import DataError
from fusseg.federation.strategies import resolve
from fusseg.runs.directory import load_record
from fusseg.runs.record_form import HelloEntry, ModelScores, Record, RoundEntry

Phase = Literal["trained", "finished", "kept"]
PHASES: tuple[Phase, ...] = ("trained", "finished", "kept")
"""After the last training round, after the Lloyd finish, and after the choice between the start and
the last model."""


@dataclass(frozen=True)
class Scores:
    """Scores of one run, or their means over runs with different held-out sites; all in [0, 1]."""

    mean_iou: float
    pixel_accuracy: float
    sites: Mapping[str, float]
    """mIoU of each held-out client."""
    mean_iou_stego: float | None = None
    """By STEGO's definition, for comparison with published figures; None in older records."""


@dataclass(frozen=True)
class Result:
    """Scores and cost of one seed of one row and column."""

    scores: Mapping[Phase, Scores]
    """By phase, in the order of `PHASES`; a row has those that it goes through, and after a choice
    none for its finish."""
    bytes_sent: float
    """By all clients in one run, up and down."""
    seconds: float
    """Time of training and evaluation in one run."""


Results = Mapping[tuple[str, str], Mapping[int, Result]]
"""By method and column, then by seed; only what is finished."""


def read_cell(cell: Cell) -> Result | None:
    """Read the scores and cost of a cell; None if it is not finished.

    Raises:
        DataError: If its record is damaged, or has no scores.
    """
    if cell_progress(cell) != "finished":
        return None
    record = load_record(cell.path)
    try:
        return _read_record(record, cell)
    except (KeyError, TypeError) as error:
        raise DataError(f"damaged record: {cell.path} ({error!r})") from error


def read_results(cells: Iterable[Cell]) -> tuple[dict[Cell, Result], Results]:
    """Read all finished cells, and average them by row, column and seed.

    If sites are held out in turn, a seed counts once all its cells are finished.
    """
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    single: dict[Cell, Result] = {}
    for cell in cells:
        groups.setdefault((cell.method, cell.column, cell.seed), []).append(cell)
        found = read_cell(cell)
        if found is not None:
            single[cell] = found
    joined: dict[tuple[str, str], dict[int, Result]] = {}
    for (method, column, seed), members in groups.items():
        if all(cell in single for cell in members):
            result = join_results([single[cell] for cell in members])
            joined.setdefault((method, column), {})[seed] = result
    return single, joined


def join_results(results: Sequence[Result]) -> Result:
    """Average runs that differ in the held-out site; scores per site are kept."""
    phases = [phase for phase in PHASES if all(phase in result.scores for result in results)]
    return Result(
        scores={phase: _join_scores([one.scores[phase] for one in results]) for phase in phases},
        bytes_sent=fmean(result.bytes_sent for result in results),
        seconds=fmean(result.seconds for result in results),
    )


def _join_scores(scores: Sequence[Scores]) -> Scores:
    stego = [one.mean_iou_stego for one in scores if one.mean_iou_stego is not None]
    return Scores(
        mean_iou=fmean(one.mean_iou for one in scores),
        pixel_accuracy=fmean(one.pixel_accuracy for one in scores),
        sites={site: value for one in scores for site, value in one.sites.items()},
        mean_iou_stego=fmean(stego) if len(stego) == len(scores) else None,
    )


def _read_record(record: Record, cell: Cell) -> Result:
    found: dict[Phase, ModelScores | None] = {"trained": record["trained"]}
    found[_last_phase(cell)] = record["final"]
    sent: list[HelloEntry | RoundEntry] = [*record["rounds"]]
    if record["hello"] is not None:
        sent.append(record["hello"])
    return Result(
        scores={phase: _scores(part, cell) for phase, part in found.items() if part is not None},
        bytes_sent=float(sum(part.get("bytes_up", 0) + part.get("bytes_down", 0) for part in sent)),
        seconds=record["seconds"]["train"] + record["seconds"]["evaluate"],
    )


def _last_phase(cell: Cell) -> Phase:
    if cell.anchor is not None:
        return "trained"
    protocol = resolve(cell.config)
    if protocol.choice:
        return "kept"
    return "finished" if protocol.lloyd_rounds else "trained"


def _scores(part: ModelScores, cell: Cell) -> Scores:
    if part["mean_iou"] is None or part["pixel_accuracy"] is None:
        raise DataError(f"{cell.path} has no scores: no held-out image is labeled")
    sites = {site: scores["mean_iou"] for site, scores in part["sites"].items()}
    return Scores(part["mean_iou"], part["pixel_accuracy"], sites, part.get("mean_iou_stego"))
