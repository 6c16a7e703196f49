"""Turn results into the sections of a table: headings, rows and the best entries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fusseg.bench.cell_results import PHASES, Phase, Result, Results, Scores
from fusseg.bench.grid import Grid
from fusseg.bench.statistics import Difference, Spread, paired_difference, spread
from fusseg.report import formatting

PHASE_NAMES: Mapping[Phase, str] = {
    "trained": "trained",
    "finished": "+ finish",
    "kept": "kept",
}
MISSING = "missing"
"""Shown for a cell that is not finished."""


@dataclass(frozen=True)
class Entry:
    """One entry of a table."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Section:
    """One table with its heading."""

    heading: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]


def table_sections(grid: Grid, methods: Sequence[str], results: Results) -> tuple[Section, ...]:
    """Format all results: scores, paired differences, scores per site, cost.

    Args:
        grid: The grid.
        methods: Rows to show.
        results: Results so far.
    """
    phases = [
        phase
        for phase in PHASES
        if phase == "trained" or any(_phase_values(found, phase) for found in results.values())
    ]
    view = _View(grid, tuple(methods), results, tuple(phases))
    return (
        _score_section(view, "mIoU", lambda scores: scores.mean_iou, published=True),
        _score_section(view, "Pixel accuracy", lambda scores: scores.pixel_accuracy),
        *(_difference_section(view, reference) for reference in grid.references),
        *(_site_section(view, column) for column in grid.column_names),
        _cost_section(view),
    )


@dataclass(frozen=True)
class _View:
    grid: Grid
    methods: tuple[str, ...]
    results: Results
    phases: tuple[Phase, ...]

    def found(self, method: str, column: str) -> Mapping[int, Result]:
        return self.results.get((method, column), {})

    def absent(self, method: str, column: str) -> str:
        """Text for a missing number: the cell is not finished, or not in the grid."""
        row = next(row for row in self.grid.methods if row.name == method)
        unfinished = self.grid.has_cell(row, column) and not self.found(method, column)
        return MISSING if unfinished else formatting.ABSENT


Reading = Callable[[Scores], float | None]
"""Returns a score in [0, 1]; None if a run does not have it."""


def _score_section(view: _View, heading: str, read: Reading, *, published: bool = False) -> Section:
    figures = view.grid.published or {}
    with_paper = {
        column: published and any(column in row for row in figures.values())
        for column in view.grid.column_names
    }
    header, columns = ["method"], []
    for column in view.grid.column_names:
        for phase in view.phases:
            header.append(_heading(view, column, phase))
            columns.append(_spread_column(view, column, phase, read))
        if with_paper[column]:
            for phase in view.phases:
                header.append(f"{_heading(view, column, phase)}, STEGO's mIoU")
                columns.append(_spread_column(view, column, phase, _stego_reading))
            header.append(f"{column}, paper")
            columns.append([_published(figures, method, column) for method in view.methods])
    return Section(
        heading,
        "Percent, mean ± standard deviation over seeds; the best of a column is bold."
        + (_KEPT_NOTE if "kept" in view.phases else "")
        + (_STEGO_NOTE if any(with_paper.values()) else ""),
        tuple(header),
        _by_row(view.methods, columns),
    )


_KEPT_NOTE = (
    " Kept: the start or the last model, whichever the clients judge better without labels."
)
_STEGO_NOTE = (
    " STEGO's mIoU, for published figures: a class that no label has counts as 0 where it is "
    "predicted."
)


def _stego_reading(scores: Scores) -> float | None:
    return scores.mean_iou_stego


def _spread_column(view: _View, column: str, phase: Phase, read: Reading) -> list[Entry]:
    found: list[Spread | None] = []
    for method in view.methods:
        read_values = (
            read(result.scores[phase])
            for result in view.found(method, column).values()
            if phase in result.scores
        )
        values = [value for value in read_values if value is not None]
        found.append(spread(values) if values else None)
    best = max((one.mean for one in found if one is not None), default=None)
    return [
        Entry(view.absent(method, column))
        if one is None
        else Entry(_percent(one, len(view.grid.seeds)), one.mean == best)
        for method, one in zip(view.methods, found, strict=True)
    ]


def _difference_section(view: _View, reference: str) -> Section:
    header, columns = ["method"], []
    rows = [method for method in view.methods if method != reference]
    for column in view.grid.column_names:
        for phase in view.phases:
            other = _phase_values(view.found(reference, column), phase, either=True)
            entries = []
            for method in rows:
                values = _phase_values(view.found(method, column), phase, either=True)
                difference = paired_difference(values, other)
                entries.append(
                    Entry(
                        view.absent(method, column)
                        if difference is None
                        else points(difference, len(view.grid.seeds))
                    )
                )
            header.append(_heading(view, column, phase))
            columns.append(entries)
    return Section(
        f"mIoU against {reference}",
        f"Points, mean of the paired differences over n = {len(view.grid.seeds)} seeds ± half the "
        "width of its 95 % confidence interval (Student's t, n - 1 degrees of freedom); an "
        "interval that holds 0 shows no difference. A row with one score enters every comparison "
        "with it, and a row without a choice is compared under 'kept' by its last score.",
        tuple(header),
        _by_row(rows, columns),
    )


def _site_section(view: _View, column: str) -> Section:
    sites = sorted(
        {
            site
            for method in view.methods
            for result in view.found(method, column).values()
            for scores in result.scores.values()
            for site in scores.sites
        }
    )
    header, columns = ["method"], []
    for site in sites:
        for phase in view.phases:
            header.append(_heading(view, site, phase))
            columns.append(_spread_column(view, column, phase, _site_reading(site)))
    heading = "mIoU per held-out site"
    if len(view.grid.columns) > 1:
        heading += f": {column}"
    return Section(
        heading,
        "Percent, mean ± standard deviation over seeds"
        + ("; each site was held out in its own run." if view.grid.leave_one_out else "."),
        tuple(header),
        _by_row(view.methods, columns),
    )


def _site_reading(site: str) -> Reading:
    return lambda scores: scores.sites.get(site)


def _cost_section(view: _View) -> Section:
    header, columns = ["method"], []
    for column in view.grid.column_names:
        header += [f"{column}, sent", f"{column}, time"]
        sent, seconds = [], []
        for method in view.methods:
            runs = list(view.found(method, column).values())
            if not runs:
                sent.append(Entry(view.absent(method, column)))
                seconds.append(Entry(view.absent(method, column)))
                continue
            sent.append(Entry(formatting.size(round(spread([r.bytes_sent for r in runs]).mean))))
            seconds.append(Entry(formatting.duration(spread([r.seconds for r in runs]).mean)))
        columns += [sent, seconds]
    return Section(
        "Cost",
        "Means per run: bytes up and down of all clients together; wall time of training and "
        "evaluation, without extraction.",
        tuple(header),
        _by_row(view.methods, columns),
    )


def points(difference: Difference, num_seeds: int) -> str:
    """Format a difference of scores in points, with its sign."""
    sign = "+" if difference.mean >= 0 else "\N{MINUS SIGN}"
    text = f"{sign}{abs(100 * difference.mean):.2f}"
    if difference.margin is not None:
        text += f" ± {100 * difference.margin:.2f}"
    return text + _of_seeds(difference.count, num_seeds)


def _percent(found: Spread, num_seeds: int) -> str:
    text = f"{100 * found.mean:.2f}"
    if found.std is not None:
        text += f" ± {100 * found.std:.2f}"
    return text + _of_seeds(found.count, num_seeds)


def _of_seeds(count: int, num_seeds: int) -> str:
    """Mark a mean over fewer seeds than the grid has."""
    return "" if count == num_seeds else f" ({count} of {num_seeds} seeds)"


def _phase_values(
    found: Mapping[int, Result], phase: Phase, *, either: bool = False
) -> dict[int, float]:
    values = {}
    for seed, result in found.items():
        scores = result.scores.get(phase)
        if scores is None and either and (phase == PHASES[-1] or len(result.scores) == 1):
            scores = list(result.scores.values())[-1]
        if scores is not None:
            values[seed] = scores.mean_iou
    return values


def _published(figures: Mapping[str, Mapping[str, float]], method: str, column: str) -> Entry:
    percent = figures.get(method, {}).get(column)
    return Entry(formatting.ABSENT if percent is None else f"{percent:.2f}")


def _heading(view: _View, name: str, phase: Phase) -> str:
    return name if len(view.phases) == 1 else f"{name}, {PHASE_NAMES[phase]}"


def _by_row(
    names: Sequence[str], columns: Sequence[Sequence[Entry]]
) -> tuple[tuple[Entry, ...], ...]:
    return tuple(
        (Entry(name), *(column[row] for column in columns)) for row, name in enumerate(names)
    )
