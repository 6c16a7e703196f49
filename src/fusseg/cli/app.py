"""The commands; heavy imports wait until a command needs them, so that `--help` is quick."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fusseg.cli.annotate_command import annotate_app
from fusseg.cli.keying import keys_app
from fusseg.cli.later import later_app
from fusseg.cli.predict_command import predict_app
from fusseg.cli.sharing import share_app
from fusseg.errors import FussegError
from fusseg.version import VERSION

app = typer.Typer(
    name="fusseg",
    help="Federated unsupervised semantic segmentation: sites with private, unlabeled images "
    "learn one model together.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(keys_app, name="keys")
app.add_typer(later_app)
app.add_typer(share_app)
app.add_typer(annotate_app)
app.add_typer(predict_app)
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Feature cache; default: FUSSEG_CACHE, else the user's cache."),
]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Spread the work over this Dask cluster, such as tcp://host:8786; needs "
        "fusseg[cluster].",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")
]
RunArgument = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]
ConfigArgument = Annotated[Path, typer.Argument(help="TOML file.", show_default=False)]

INPUT_ERROR, INTERRUPTED = 2, 130


def main() -> None:
    """Run the command line; errors from input exit with 2 and without a traceback."""
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


@app.command()
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


@app.command()
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


@app.command()
def extract(
    config: ConfigArgument,
    set_: SetOption = None,
    cache: CacheOption = None,
    dask: DaskOption = None,
) -> None:
    """Extract the features of a configuration's images, and do nothing else."""
    from fusseg.cli.running import run_extract

    run_extract(config, set_ or [], cache_folder(cache), dask)


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file; with --resume the run's own may be left out.")
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory; default: a new one under runs/.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
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
    from fusseg.cli.running import run_training, start_overrides

    overrides = set_ or []
    if start is not None:
        _refuse_given("that of a run already begun", {"--resume": resume})
        config, overrides = config or start / "config.toml", start_overrides(start, overrides)
    out = _run_dir(config, out, resume=resume)
    mend = f"fusseg run --resume --out {shlex.quote(str(out))}"
    if cache is not None:
        mend += f" --cache {shlex.quote(str(cache))}"
    with _interruptible(out, mend):
        folder = cache_folder(cache)
        run_training(config, overrides, out, folder, resume=resume, trackers=track or [])


@app.command()
def serve(  # noqa: PLR0913 - one per option
    sites: Annotated[Path, typer.Option("--sites", help="sites.toml: who may join.")],
    keys: Annotated[
        Path, typer.Option("--keys", help="Folder of ca.crt, server.crt and server.key.")
    ],
    config: Annotated[
        Path | None, typer.Argument(help="TOML file; with --resume the run's own may be left out.")
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory; default: a new one under runs/.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8443,
    cache: CacheOption = None,
) -> None:
    """Run a federation of sites on other machines; needs fusseg[flower]."""
    from fusseg.cli.deploying import ResumeHint, check_installed, run_serve

    check_installed()
    from fusseg.deployment.serve import ServeOptions

    run_dir = _run_dir(config, out, resume=resume)
    options = ServeOptions(run_dir, cache_folder(cache), sites, keys, host, port)
    with _interruptible(run_dir, str(ResumeHint(options))):
        run_serve(config, set_ or [], options, resume=resume)


@app.command()
def join(  # noqa: PLR0913 - one per option
    server: Annotated[str, typer.Argument(help="HOST:PORT of the server.", show_default=False)],
    data: Annotated[Path, typer.Option("--data", help="This site's folder of images.")],
    name: Annotated[str, typer.Option("--name", help="This site's name in sites.toml.")],
    key: Annotated[Path, typer.Option("--key", help="This site's private key.")],
    ca: Annotated[Path, typer.Option("--ca", help="ca.crt of the federation.")],
    backbone: Annotated[
        str | None, typer.Option(help="This site's copy of the backbone: onnx:PATH, FOLDER or ID.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Agree to these settings and no others.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder of ledger and models of this site.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End after one federation.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")
    ] = False,
    cache: CacheOption = None,
) -> None:
    """Take part in a federation with this machine's images; needs fusseg[flower]."""
    from fusseg.cli.deploying import check_installed, run_dry, run_join, site_folder

    check_installed()
    from fusseg.deployment.join import JoinOptions
    from fusseg.deployment.site import SiteSettings

    folder = site_folder(name) if state is None else state
    settings = SiteSettings(
        name=name,
        data=str(data.absolute()),
        cache=str(cache_folder(cache).absolute()),
        backbone=backbone,
        pinned=None if config is None else str(config.absolute()),
    )
    options = JoinOptions(server, folder.absolute(), key, ca, once)
    try:
        (run_dry if dry_run else run_join)(settings, options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


@app.command()
def ledger(
    folder: Annotated[
        Path, typer.Argument(help="Run directory of a server, or --state folder of a site.")
    ],
    site: Annotated[str | None, typer.Option(help="Only messages from and to this site.")] = None,
) -> None:
    """Print every message that left or arrived: tensors, bytes, digest."""
    from fusseg.cli.deploying import run_ledger

    run_ledger(folder, site)


@app.command()
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


@app.command()
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
    _refuse_given("that of two or more runs", {"--out": out})
    run_report(run_dirs[0], cache_folder(cache))


@app.command()
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
        _refuse_given(
            "that of a grid",
            {"--preset": preset, "--data": data, "--out": out, "--seeds": seeds}
            | {"--jobs": jobs > 1, "--dask": dask, "--only": only, "--column": column}
            | {"--no-figures": not figures, "--set": set_, "--cache": cache},
        )
        _bench_speed(device, json, backbone, quick=quick)
        return
    _refuse_given(
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
        command=shlex.join(["fusseg", *sys.argv[1:]]),
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
    try:
        done = run_bench(options)
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: {options.command}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if not done:
        raise typer.Exit(1)


@app.command()
def doctor(cache: CacheOption = None) -> None:
    """Say what is installed, which devices are there and which weights are cached."""
    from fusseg.cli.doctoring import run_doctor

    run_doctor(cache_folder(cache))


@app.command("cache")
def list_or_prune(
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what all given conditions hold for.")
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(help="Only what was not used for so many days.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Only features of this backbone.")] = None,
    site: Annotated[str | None, typer.Option(help="Only features of this site.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="With --prune: all of it.")] = False,
    cache: CacheOption = None,
) -> None:
    """List the feature cache (site, backbone, size, images, bytes, last use), or prune it."""
    from fusseg.cli.caching import choose_stores, list_cache, prune_cache

    folder = cache_folder(cache)
    stores = choose_stores(folder, older_than, backbone, site)
    if not prune:
        list_cache(folder, stores)
        return
    unconditional = older_than is None and backbone is None and site is None
    if unconditional and not everything:
        raise typer.BadParameter("say what: --older-than DAYS, --backbone, --site, or --all")
    prune_cache(folder, stores, everything=unconditional)


def cache_folder(option: Path | None) -> Path:
    """Find the feature cache: the option, else FUSSEG_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_path

    if option is not None:
        return option
    variable = os.environ.get("FUSSEG_CACHE")
    return Path(variable).expanduser() if variable else user_cache_path("fusseg")


def _run_dir(config: Path | None, out: Path | None, *, resume: bool) -> Path:
    """Find the run directory: as given, else a new one named after the configuration."""
    if config is None and not (resume and out is not None):
        raise typer.BadParameter("give CONFIG.toml, or --resume with --out RUN_DIR")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out RUN_DIR: which run is to go on")
    if out is not None:
        return out
    assert config is not None
    return Path("runs") / f"{config.stem}-{datetime.now():%Y%m%d-%H%M%S}"


def _refuse_given(whose: str, options: Mapping[str, object]) -> None:
    """Refuse options that mean nothing here, where they were given."""
    given = [name for name, value in options.items() if value]
    if given:
        raise typer.BadParameter(f"{given[0]} is {whose} and means nothing here; leave it out")


def _bench_speed(
    device: str | None, json: Path | None, backbone: str | None, *, quick: bool
) -> None:
    from fusseg.cli.speeding import SpeedOptions, run_speed

    options = SpeedOptions(
        json=json or Path("runs") / "bench-speed" / "speed.json",
        command=shlex.join(["fusseg", *sys.argv[1:]]),
        device=device or "cpu",
        quick=quick,
        backbone=backbone,
    )
    try:
        done = run_speed(options)
    except KeyboardInterrupt:
        print(f"\nstopped; what was measured is in {options.json}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if not done:
        raise typer.Exit(1)


def _held_out(data: Path | None, sites: str | None, split: str | None) -> dict[str, str]:
    chosen = {"data": data and str(data), "sites": sites, "split": split}
    return {name: value for name, value in chosen.items() if value}


@contextmanager
def _interruptible(run_dir: Path, mend: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        begun = (run_dir / "config.toml").exists()
        print(f"\nstopped; go on with: {mend}" if begun else "\nstopped", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
