"""The command `fusseg bench`; heavy imports wait as in `app`."""

from pathlib import Path
from typing import Annotated

import typer

from fusseg.cli.options import (
    CacheOption,
    DaskOption,
    SetOption,
    cache_folder,
    refuse_given,
    this_command,
)
from fusseg.cli.stopping import stopped_with

bench_app = typer.Typer(rich_markup_mode=None)


@bench_app.command()
def bench(  # noqa: PLR0913 - one per option
    grid: Annotated[
        str, typer.Argument(help="table1, table2, table3, GRID.toml, or speed.", show_default=False)
    ],
    preset: Annotated[
        str | None, typer.Option(help="Which preset of the grid, such as cityscapes.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the data; default: the grid's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the cells; default: runs/bench-GRID.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; default: the grid's.")] = None,
    jobs: Annotated[int, typer.Option(help="Cells that run at a time.")] = 1,
    dask: DaskOption = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run this method; can be repeated.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Run this column; can be repeated.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw figures at the end.")] = True,
    set_: SetOption = None,
    cache: CacheOption = None,
    device: Annotated[
        str | None, typer.Option(help="speed: where training is measured, cpu or cuda.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="speed: smaller sizes, within 3 minutes on 2 cores.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="speed: file to write, and its table beside it as Markdown."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="speed: a backbone with weights, such as onnx:PATH.")
    ] = None,
) -> None:
    """Run a grid of experiments, methods x columns x seeds, and set its table.

    `speed` measures every stage of the program against its matrix products instead.
    """
    if grid == "speed":
        refuse_given(
            "that of a grid",
            {"--preset": preset, "--data": data, "--out": out, "--seeds": seeds}
            | {"--jobs": jobs > 1, "--dask": dask, "--only": only, "--column": column}
            | {"--no-figures": not figures, "--set": set_, "--cache": cache},
        )
        _bench_speed(device, json, backbone, quick=quick)
        return
    refuse_given(
        "that of fusseg bench speed",
        {"--device": device, "--quick": quick, "--json": json, "--backbone": backbone},
    )
    from fusseg.cli.benching import BenchOptions, run_bench

    if out is None:
        out = Path("runs") / "-".join(filter(None, ("bench", Path(grid).stem, preset)))
    options = BenchOptions(
        grid=grid,
        out=out,
        cache=cache_folder(cache),
        command=this_command(),
        preset=preset,
        data=data,
        seeds=seeds,
        jobs=jobs,
        dask=dask,
        overrides=tuple(set_ or ()),
        only=tuple(only or ()),
        columns=tuple(column or ()),
        figures=figures,
    )
    with stopped_with(f"stopped; go on with: {options.command}"):
        done = run_bench(options)
    if not done:
        raise typer.Exit(1)


def _bench_speed(
    device: str | None, json: Path | None, backbone: str | None, *, quick: bool
) -> None:
    from fusseg.cli.speeding import SpeedOptions, run_speed

    options = SpeedOptions(
        json=json or Path("runs") / "bench-speed" / "speed.json",
        command=this_command(),
        device=device or "cpu",
        quick=quick,
        backbone=backbone,
    )
    with stopped_with(f"stopped; what was measured is in {options.json}"):
        done = run_speed(options)
    if not done:
        raise typer.Exit(1)
