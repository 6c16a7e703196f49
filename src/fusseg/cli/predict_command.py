"""The commands `fusseg predict` and `fusseg name`; heavy imports wait as in `app`."""

from pathlib import Path
from typing import Annotated

import typer

from fusseg.cli.options import RunArgument, SiteOption, stopped_with

predict_app = typer.Typer(rich_markup_mode=None)


@predict_app.command()
def predict(  # noqa: PLR0913 - one per option
    run_dir: Annotated[
        Path, typer.Argument(help="Run directory, or a model file.", show_default=False)
    ],
    images: Annotated[
        list[Path],
        typer.Argument(help="Images, folders, or patterns in quotes.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")],
    site: SiteOption = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Pixels that the backbone sees per pixel; default: as in training."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Largest side that the backbone sees at once, in pixels.")
    ] = None,
    refine: Annotated[
        str, typer.Option(help="Bring borders to edges: none, guided (fast) or crf.")
    ] = "none",
    batch: Annotated[int, typer.Option(help="Images or tiles per forward pass.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Redo what is done already.")] = False,
    backbone: Annotated[
        str | None,
        typer.Option(help="With a model file: this machine's backbone, onnx:PATH or FOLDER."),
    ] = None,
) -> None:
    """Segment images of any size: an index PNG, an overlay and a JSON of areas for each."""
    from fusseg.cli.predicting import run_predict

    chosen = {"scale": scale, "tile": tile, "refine": refine, "batch": batch}
    with stopped_with("stopped; the same command goes on"):
        done = run_predict(run_dir, images, out, site, chosen, backbone=backbone, again=again)
    if not done:
        raise typer.Exit(1)


@predict_app.command()
def name(
    run_dir: RunArgument,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Folder of labeled sites to take names from.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Images of the crops; default: the run's.")
    ] = None,
    site: SiteOption = None,
    again: Annotated[bool, typer.Option("--again", help="Replace the names there are.")] = False,
) -> None:
    """Show what the clusters look like, and write regions.toml to name them in."""
    from fusseg.cli.naming import NameOptions, run_name

    run_name(NameOptions(run_dir, labels, images, site, again))
