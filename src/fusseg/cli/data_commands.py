"""The commands about images and their features; heavy imports wait as in `app`."""

from pathlib import Path
from typing import Annotated

import typer

from fusseg.cli.options import (
    CacheOption,
    ConfigArgument,
    DaskOption,
    SetOption,
    cache_folder,
    this_command,
)

data_app = typer.Typer(rich_markup_mode=None)


@data_app.command()
def scenes(
    kind: Annotated[str, typer.Argument(help="pipes or streets.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of sites to make.")],
    images: Annotated[int, typer.Option(help="Images of each site.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    held_out: Annotated[
        str | None, typer.Option(help="Site that does not train: its split is test.")
    ] = None,
) -> None:
    """Write generated images with masks as a folder of sites, to try everything on."""
    from fusseg.cli.starting import run_scenes

    run_scenes(kind, out, images, seed, held_out)


@data_app.command()
def init(
    root: Annotated[Path, typer.Argument(help="Folder of sites, or of images.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="TOML file to write; default: ROOT.toml here.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="filterbank, onnx:PATH, or a hub id or folder of a ViT.")
    ] = "filterbank",
    num_clusters: Annotated[
        int | None, typer.Option("--k", help="Regions to tell apart; default: as many as classes.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="Where the tokens of an ONNX file lie: square, or ROWSxCOLUMNS."),
    ] = None,
) -> None:
    """Look at a folder of images and write a configuration to start from."""
    from fusseg.cli.starting import StartOptions, parse_grid, run_init

    file = Path(f"{root.resolve().name or 'fusseg'}.toml") if out is None else out
    run_init(StartOptions(root, file, backbone, num_clusters, parse_grid(grid)))


@data_app.command()
def check(
    root: Annotated[Path, typer.Argument(help="Folder of sites, or a CONFIG.toml.")],
    backbone: Annotated[
        str | None, typer.Option(help="Backbone to estimate for; default: the configuration's.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH to estimate for, such as 320x480.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Say what is there, what is wrong and what to do; exit 1 if a run would fail."""
    from fusseg.cli.checking import run_check

    if not run_check(root, backbone, image_size, cache_folder(cache)):
        raise typer.Exit(1)


@data_app.command()
def partition(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write: client, site, stem.")],
    figure: Annotated[
        Path | None, typer.Option("--figure", help="SVG file of the classes of each client.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Show which client holds which training images, and save it."""
    from fusseg.cli.partitioning import run_partition

    run_partition(config, set_ or [], out, figure)


@data_app.command()
def extract(
    config: ConfigArgument,
    set_: SetOption = None,
    cache: CacheOption = None,
    dask: DaskOption = None,
) -> None:
    """Extract the features of a configuration's images, and do nothing else."""
    from fusseg.cli.running import run_extract

    run_extract(config, set_ or [], cache_folder(cache), dask)


@data_app.command("suggest-k")
def suggest_k(
    config: ConfigArgument,
    numbers: Annotated[
        str | None, typer.Option("--k", help="Numbers to try, such as 2,4,8; default: 2 to 40.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Page to write.")] = Path("suggest-k.html"),
    set_: SetOption = None,
    cache: CacheOption = None,
) -> None:
    """Suggest a number of regions from unlabeled images, before anything is trained."""
    from fusseg.cli.judging import SuggestOptions, run_suggest

    run_suggest(
        config, set_ or [], SuggestOptions(out, cache_folder(cache), this_command(), numbers)
    )
