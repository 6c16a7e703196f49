"""The command `fusseg annotate`; heavy imports wait as in `app`."""

from pathlib import Path
from typing import Annotated

import typer

annotate_app = typer.Typer(rich_markup_mode=None)


@annotate_app.command()
def annotate(  # noqa: PLR0913 - one per option
    predictions: Annotated[
        Path, typer.Argument(help="Folder that fusseg predict wrote.", show_default=False)
    ],
    images: Annotated[Path, typer.Option("--images", help="Folder of the images.")],
    format_: Annotated[str, typer.Option("--format", help="coco, label-studio, cvat or labelme.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; for labelme a folder.")],
    shapes: Annotated[str, typer.Option(help="polygons, or rle: masks.")] = "polygons",
    instances: Annotated[
        str, typer.Option(help="One annotation for each of the components, or region.")
    ] = "components",
    tolerance: Annotated[
        float, typer.Option(help="How far polygons may leave the border, in pixels.")
    ] = 1.0,
    min_area: Annotated[
        int, typer.Option(help="Leave out parts, and fill holes, of fewer pixels.")
    ] = 25,
    regions: Annotated[
        Path | None, typer.Option("--regions", help="The run's regions.toml: names and colors.")
    ] = None,
    image_prefix: Annotated[
        str | None,
        typer.Option(help="label-studio: what stands before an image's path in its address."),
    ] = None,
) -> None:
    """Write predictions for a labeling tool: COCO, Label Studio, CVAT or LabelMe."""
    from fusseg.cli.annotating import AnnotateOptions, choose_how, run_annotate

    how = choose_how(shapes, instances, tolerance, min_area)
    said = AnnotateOptions(predictions, images, format_, out, regions, image_prefix, how)
    if not run_annotate(said):
        raise typer.Exit(1)
