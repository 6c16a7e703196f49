"""The command `fusseg bench`; heavy imports wait as in `app`."""

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from fusseg.cli.options import (
    CacheOption,
    DaskOption,
    SetOption,
    cache_folder,
    stopped_with,
    this_command,
)

bench_app = typer.Typer(rich_markup_mode=None)


class _BenchCommand(typer.core.TyperCommand):
    """Tells where `fusseg bench speed` went, whatever options follow it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's own
        """Read the arguments."""
        if args[:1] == ["speed"]:
            ctx.fail(
                "the measurements of speed are no longer part of the package; run "
                "`python -m benchmarks.speed` in a checkout of the repository"
            )
        return super().parse_args(ctx, args)


@bench_app.command(cls=_BenchCommand)
def bench(  # noqa: PLR0913 - one per option
    grid: Annotated[
        str, typer.Argument(help="table1, table2, table3 or GRID.toml.", show_default=False)
    ],
    preset: Annotated[
        str | None, typer.Option(help="Preset of the grid, such as cityscapes.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the data; default: the grid's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the cells; default: runs/bench-GRID.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; default: the grid's.")] = None,
    jobs: Annotated[int, typer.Option(help="Number of cells to run at the same time.")] = 1,
    dask: DaskOption = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run only this method; can be repeated.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Run only this column; can be repeated.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw figures at the end.")] = True,
    set_: SetOption = None,
    cache: CacheOption = None,
) -> None:
    """Run a grid of experiments, methods x columns x seeds, and write its table."""
    from fusseg.cli.bench import BenchOptions, run_bench

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
