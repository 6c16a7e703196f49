"""Show what a command is doing: bars on a terminal, plain lines elsewhere."""

from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fusseg.cli.summaries import describe_finding
from fusseg.core.visible_text import visible
from fusseg.data.findings import Finding

if TYPE_CHECKING:
    from fusseg.features.extraction import Progress as Extraction

Outcome = TypeVar("Outcome")
_STAGES = {
    "read": "reading images",
    "extract": "extracting features",
    "prepare": "preparing images",
}
_LINES_PER_STAGE = 10
"""Progress lines of a stage without a terminal."""


class Display:
    """Bars or lines for the stages of one command; a context manager."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True)
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def advance(
        self, stage: str, done: int, total: int, unit: str = "", *, lines: bool = True
    ) -> None:
        """Show how far a stage is; each stage has its own bar.

        Args:
            stage: Name of the bar.
            done: Number of parts that are done.
            total: Number of all parts.
            unit: What the parts are, in lines; empty: the stage's name says it.
            lines: Print lines if there is no terminal.
        """
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done)
        elif lines and (done == total or done % max(1, total // _LINES_PER_STAGE) == 0):
            self.line(f"{stage}: {done} of {total} {unit}".rstrip())

    def line(self, text: str, keep: str = "") -> None:
        r"""Print a line, above the bars if there are any.

        Args:
            text: The line.
            keep: Characters not to escape, as in `visible`: `\n` for a text of several lines.
        """
        self._console.print(visible(text, keep), markup=False, highlight=False, emoji=False)


def follow(stages: "Generator[Extraction | Finding, None, Outcome]", display: Display) -> Outcome:
    """Show an extraction until it ends, and return its result."""
    while True:
        try:
            stage = next(stages)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        show_extraction(stage, display)


def show_extraction(stage: "Extraction | Finding", display: Display) -> None:
    """Show how far an extraction is, or what is doubtful about its images."""
    if isinstance(stage, Finding):
        display.line(describe_finding(stage))
        return
    display.advance(_STAGES[stage.stage], stage.done, stage.total)
