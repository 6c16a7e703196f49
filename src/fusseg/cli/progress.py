"""Show what a run is doing: bars on a terminal, plain lines elsewhere."""

from types import TracebackType

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

from fusseg.core.visible_text import visible

_LINES_PER_STAGE = 10
"""Progress lines of a stage where there is no terminal."""


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

    def advance(self, stage: str, done: int, total: int, *, lines: bool = True) -> None:
        """Show how far a stage is; one bar per stage name.

        Args:
            stage: Name of the bar.
            done: Parts that are done.
            total: All parts.
            lines: Say it in lines where there is no terminal.
        """
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done)
        elif lines and (done == total or done % max(1, total // _LINES_PER_STAGE) == 0):
            self.line(f"{stage}: {done} of {total}")

    def line(self, text: str, keep: str = "") -> None:
        r"""Print a line, above the bars where there are any.

        Args:
            text: The line.
            keep: As in `visible`: `\n` for a text of several lines.
        """
        self._console.print(visible(text, keep), markup=False, highlight=False, emoji=False)
