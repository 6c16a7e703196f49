"""The commands for those without labels, and for new sites; heavy imports wait as in `app`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

later_app = typer.Typer()
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Feature cache; default: FUSSEG_CACHE, else the user's cache."),
]
RunArgument = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]


@later_app.command("suggest-k")
def suggest_k(
    config: Annotated[Path, typer.Argument(help="TOML file.", show_default=False)],
    numbers: Annotated[
        str | None, typer.Option("--k", help="Numbers to try, such as 2,4,8; default: 2 to 40.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Page to write.")] = Path("suggest-k.html"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Suggest a number of regions from unlabeled images, before anything is trained."""
    from fusseg.cli.app import cache_folder
    from fusseg.cli.judging import SuggestOptions, run_suggest

    command = shlex.join(["fusseg", *sys.argv[1:]])
    run_suggest(config, set_ or [], SuggestOptions(out, cache_folder(cache), command, numbers))


@later_app.command()
def quality(
    run_dir: RunArgument,
    second: Annotated[
        Path | None,
        typer.Argument(help="A run of the same settings and another seed.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write; default: quality.html in RUN_DIR.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Whose model, where each site has its own.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Say how clear a run's regions are, and how stable over two seeds, without labels."""
    from fusseg.cli.app import cache_folder
    from fusseg.cli.judging import QualityOptions, run_quality

    command = shlex.join(["fusseg", *sys.argv[1:]])
    page = run_dir / "quality.html" if out is None else out
    run_quality(run_dir, second, QualityOptions(page, cache_folder(cache), command, site))


@later_app.command()
def adapt(
    run_dir: RunArgument,
    images: Annotated[
        Path, typer.Argument(help="Folder of sites, or of images.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="New run directory.")],
    steps: Annotated[int, typer.Option(help="Lloyd steps at most; 0: only the mean feature.")] = 10,
    min_cosine: Annotated[
        float, typer.Option(help="How far a centroid may turn: cosine to where it was.")
    ] = 0.8,
    cache: CacheOption = None,
) -> None:
    """Move a run's centroids to new images, its head frozen, and show before and after."""
    from fusseg.cli.adapting import run_adapt
    from fusseg.cli.app import cache_folder
    from fusseg.federation.guarded_lloyd import Adaptation

    command = shlex.join(["fusseg", *sys.argv[1:]])
    adaptation = Adaptation(steps, min_cosine)
    run_adapt(run_dir, images, out, adaptation, cache_folder(cache), command)
