"""The command line: entry point, global options and the table of commands."""

import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

from fusseg.cli.commands import commands, keys_commands
from fusseg.core.errors import ConfigError, FussegError, nearest_name
from fusseg.core.version import VERSION
from fusseg.core.visible_text import say

# Without rich, help prints faster; typer would also escape brackets for it.
typer.core.HAS_RICH = False


class Commands(typer.core.TyperGroup):
    """A group that reports an unknown command with one suggestion; typer and click both add one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - click's own
        """Find the command that the first argument names."""
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}; {nearest_name(name, self.commands)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="fusseg",
    cls=Commands,
    help="Federated unsupervised semantic segmentation: sites with private, unlabeled images "
    "learn one model together.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(commands)
app.add_typer(keys_commands, name="keys", cls=Commands)

INPUT_ERROR = 2
"""Exit status of a refused command."""


def main() -> None:
    """Run the command line; errors in the input exit with 2 and without a traceback."""
    # OpenMP reads this when torch is imported: how often a waiting thread spins before it sleeps.
    # With the default of 300,000, threads that wait starve the threads that they wait for as soon
    # as other programs run.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # A terminal that cannot show a character gets a ?, not an error after the work is done.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        refuse_tildes(sys.argv[1:])
        app(standalone_mode=True)
    except FussegError as error:
        say(f"error: {error}", error=True)
        raise SystemExit(INPUT_ERROR) from None


def refuse_tildes(arguments: Sequence[str]) -> None:
    """Refuse a path with a ~ that the shell did not expand, as in --out=~/runs or in quotes."""
    for argument in arguments:
        if re.match(r"(--[\w-]+=)?~(/|$)", argument):
            raise ConfigError(
                f"{argument!r} has a ~ that the shell did not expand; write the path out, or leave "
                "out the quotes and the = before it"
            )


def _print_version(asked: bool | None) -> None:
    if asked:
        say(f"fusseg {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = None,
) -> None:
    """Handle global options."""
