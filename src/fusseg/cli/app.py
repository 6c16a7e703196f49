"""The commands; heavy imports wait until a command needs them, so that `--help` is quick."""

import os
import sys
from typing import Annotated

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
from fusseg.errors import FussegError
from fusseg.version import VERSION

# Help is printed without rich, for speed; typer escapes brackets for it wherever it is installed.
typer.core.HAS_RICH = False
app = typer.Typer(
    name="fusseg",
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
app.add_typer(keys_app, name="keys")

INPUT_ERROR = 2


def main() -> None:
    """Run the command line; errors from input exit with 2 and without a traceback."""
    # Read when torch is imported: how often a thread looks before it sleeps while it waits for
    # others. The default of 300,000 starves, beside other programs, those that it waits for.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app(standalone_mode=True)
    except FussegError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(INPUT_ERROR) from None


def _print_version(asked: bool | None) -> None:
    if asked:
        print(f"fusseg {VERSION}")
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
