"""The commands `fusseg pack`, `fusseg push` and `fusseg export`: a model leaves its run."""

from pathlib import Path
from typing import Annotated

import typer

from fusseg.cli.options import RunArgument, SiteOption

share_app = typer.Typer(rich_markup_mode=None)
WithSitesOption = Annotated[
    bool, typer.Option("--with-sites", help="Name the training sites, with their image counts.")
]


@share_app.command()
def pack(
    run_dir: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write: *.safetensors.")],
    site: SiteOption = None,
    with_sites: WithSitesOption = False,
) -> None:
    """Write a run's model as one file, to be used without the run."""
    from fusseg.cli.exporting import Packed, run_pack

    run_pack(Packed(run_dir, site, with_sites), out)


@share_app.command()
def push(  # noqa: PLR0913 - one per option
    run_dir: RunArgument,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the Hugging Face hub.")],
    license_id: Annotated[
        str | None, typer.Option("--license", help="As the hub lists them, such as apache-2.0.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="A picture for the model card.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    site: SiteOption = None,
    with_sites: WithSitesOption = False,
    dry_run: Annotated[
        Path | None,
        typer.Option(
            "--dry-run", help="Write what would be sent to this folder, and send nothing."
        ),
    ] = None,
) -> None:
    """Send a run's model and a model card to the Hugging Face hub."""
    from fusseg.cli.exporting import Packed, run_push
    from fusseg.export.hub import Publication

    publication = Publication(repo, private, license_id, preview)
    run_push(Packed(run_dir, site, with_sites), publication, dry_run)


@share_app.command()
def export(
    run_dir: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write: *.onnx.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            help="Image or folder to compare on; can be repeated. Default: held-out images.",
        ),
    ] = None,
    site: SiteOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep the file though it differs from the model.")
    ] = False,
) -> None:
    """Export a run's model to ONNX, and compare the two on real images; exit 1 if they differ."""
    from fusseg.cli.onnx_export import check_installed, run_export

    check_installed()
    if not run_export(run_dir, out, images or [], site, force=force):
        raise typer.Exit(1)
