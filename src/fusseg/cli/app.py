"""The commands; heavy imports wait until a command needs them, so that `--help` is quick."""

import io
import os
import re
import sys
from typing import Annotated, Any

import typer
import typer.core

from fusseg.cli.annotate_command import annotate_app
from fusseg.cli.bench_command import bench_app
from fusseg.cli.data_commands import data_app
from fusseg.cli.federation_commands import federation_app
from fusseg.cli.keying import keys_app
from fusseg.cli.machine_commands import machine_app
from fusseg.cli.predict_command import predict_app
from fusseg.cli.run_commands import run_app
from fusseg.cli.sharing import share_app
from fusseg.core.errors import ConfigError, FussegError, nearest_name
from fusseg.core.version import VERSION
from fusseg.core.visible_text import say

# Help is printed without rich, for speed; typer escapes brackets for it wherever it is installed.
typer.core.HAS_RICH = False


class Commands(typer.core.TyperGroup):
    """Commands that answer a misspelled name themselves: typer and click both add the nearest."""

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
# in the order in which a user meets them; --help lists them so
for commands in (
    data_app,
    run_app,
    predict_app,
    annotate_app,
    share_app,
    federation_app,
    bench_app,
    machine_app,
):
    app.add_typer(commands)
app.add_typer(keys_app, name="keys", cls=Commands)

INPUT_ERROR = 2


def main() -> None:
    """Run the command line; errors from input exit with 2 and without a traceback."""
    # Read when torch is imported: how often a thread looks before it sleeps while it waits for
    # others. The default of 300,000 starves, beside other programs, those that it waits for.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # A terminal that cannot show a letter gets a ? for it, not an error after the work is done.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        _refuse_tildes(sys.argv[1:])
        app(standalone_mode=True)
    except FussegError as error:
        say(f"error: {error}", error=True)
        raise SystemExit(INPUT_ERROR) from None


def _refuse_tildes(arguments: list[str]) -> None:
    """Refuse a path whose ~ the shell left alone, as in --out=~/runs or in quotes."""
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
    """Take the options that stand before any command."""
