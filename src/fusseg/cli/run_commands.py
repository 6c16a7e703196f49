"""The commands that train a run and show its scores; heavy imports wait as in `app`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fusseg.cli.options import (
    CacheOption,
    NewOrResumedArgument,
    ResumeOption,
    RunArgument,
    RunDirOption,
    SetOption,
    SiteOption,
    cache_folder,
    dated_run_dir,
    interruptible,
    new_run_dir,
    refuse_given,
    this_command,
)

run_app = typer.Typer(rich_markup_mode=None)


@run_app.command()
def run(
    config: NewOrResumedArgument = None,
    set_: SetOption = None,
    out: RunDirOption = None,
    resume: ResumeOption = False,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Start from this run's model: same regions, same names."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Also log to tensorboard, mlflow or wandb; can be repeated."),
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Train a federation and score it."""
    from fusseg.cli.running import choose_settings, run_training, start_overrides

    overrides = set_ or []
    if start is not None:
        refuse_given("that of a run already begun", {"--resume": resume})
        out = out or (None if config else dated_run_dir(start.resolve().name))
        overrides = start_overrides(start, overrides)
    out = new_run_dir(config or start, out, resume=resume)
    mend = f"fusseg run --resume --out {shlex.quote(str(out))}"
    if cache is not None:
        mend += f" --cache {shlex.quote(str(cache))}"
    with interruptible(out, mend):
        folder = cache_folder(cache)
        settings = choose_settings(config, overrides, out if resume else start)
        run_training(settings, out, folder, resume=resume, trackers=track or [])


@run_app.command()
def evaluate(
    run_dir: RunArgument,
    data: Annotated[
        Path | None, typer.Option("--data", help="Another folder of sites to score on.")
    ] = None,
    sites: Annotated[str | None, typer.Option(help="Sites to score on, such as a,b.")] = None,
    split: Annotated[str | None, typer.Option(help="Split to score on.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the scores to this file.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also fit linear probes on the training labels.")
    ] = False,
    cache: CacheOption = None,
) -> None:
    """Score a run on held-out images: its own, or others."""
    from fusseg.cli.using import run_evaluate

    run_evaluate(
        run_dir, _held_out(data, sites, split), json_file, cache_folder(cache), probe=probe
    )


@run_app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Page that compares runs; default: compare.html.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Write a run's report.html anew, or one page that compares two or more runs."""
    from fusseg.cli.reporting import run_comparison, run_report

    if len(run_dirs) > 1:
        run_comparison(run_dirs, out or Path("compare.html"))
        return
    refuse_given("that of two or more runs", {"--out": out})
    if not run_report(run_dirs[0], cache_folder(cache)):
        raise typer.Exit(1)


@run_app.command()
def quality(
    run_dir: RunArgument,
    second: Annotated[
        Path | None,
        typer.Argument(help="A run of the same settings and another seed.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write; default: quality.html in RUN_DIR.")
    ] = None,
    site: SiteOption = None,
    cache: CacheOption = None,
) -> None:
    """Say how clear a run's regions are, and how stable over two seeds, without labels."""
    from fusseg.cli.judging import QualityOptions, run_quality

    page = run_dir / "quality.html" if out is None else out
    run_quality(run_dir, second, QualityOptions(page, cache_folder(cache), this_command(), site))


@run_app.command()
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
    from fusseg.federation.lloyd_steps import Adaptation

    adaptation = Adaptation(steps, min_cosine)
    run_adapt(run_dir, images, out, adaptation, cache_folder(cache), this_command())


def _held_out(data: Path | None, sites: str | None, split: str | None) -> dict[str, str]:
    chosen = {"data": data and str(data), "sites": sites, "split": split}
    return {name: value for name, value in chosen.items() if value}
