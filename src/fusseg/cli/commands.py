"""The signatures of all commands, in the order of `fusseg --help`.

Each one imports the file of its command only when it runs, so that `--help` stays quick.
"""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from fusseg.cli.extras import require
from fusseg.cli.options import (
    CacheOption,
    ConfigArgument,
    DaskOption,
    NewOrResumedArgument,
    PresetOption,
    RegionsOption,
    ResumeOption,
    RunArgument,
    RunDirOption,
    SetOption,
    SiteOption,
    WithSitesOption,
    cache_folder,
    choose_settings,
    dated_run_dir,
    new_run_dir,
    this_command,
)
from fusseg.cli.stopping import interruptible, stopped_with

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
def scenes(
    kind: Annotated[str, typer.Argument(help="pipes or streets.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder to create, with one folder a site.")],
    images: Annotated[int, typer.Option(help="Images of each site.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    held_out: Annotated[
        str | None,
        typer.Option(help="Site that does not train: splits.csv puts its images into test."),
    ] = None,
) -> None:
    """Generate images with masks, as a folder of sites.

    They are there to try everything on.
    """
    from fusseg.cli.scenes import run_scenes

    run_scenes(kind, out, images, seed, held_out)


@commands.command()
def init(
    root: Annotated[Path, typer.Argument(help="Folder of sites, or of images.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="TOML file to write; default: ROOT.toml in the current folder."),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(
            help="efficientnet-lite2 (trained on ImageNet with labels), filterbank, onnx:PATH, or "
            "the hub ID or folder of a ViT."
        ),
    ] = "filterbank",
    num_clusters: Annotated[
        int | None,
        typer.Option("--k", help="Number of clusters; default: one per named class, else 8."),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="How the tokens of an ONNX file are arranged: square, or ROWSxCOLUMNS."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Settings to write: paper also writes those of arXiv 2505.23292.")
    ] = "default",
) -> None:
    """Write a first configuration for a folder of images."""
    from fusseg.cli.init import InitOptions, parse_grid, run_init

    file = Path(f"{root.resolve().name or 'fusseg'}.toml") if out is None else out
    run_init(InitOptions(root, file, backbone, num_clusters, parse_grid(grid), preset))


@commands.command()
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
    """Check images and settings, and say what to fix.

    The exit code is 1 if a run would fail.
    """
    from fusseg.cli.check import run_check

    if not run_check(root, backbone, image_size, cache_folder(cache)):
        raise typer.Exit(1)


@commands.command()
def partition(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write: client, site, stem.")],
    figure: Annotated[
        Path | None, typer.Option("--figure", help="SVG file to draw: the classes of each client.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Show and save which client holds which training images."""
    from fusseg.cli.partition import run_partition

    run_partition(config, set_ or [], out, figure)


@commands.command()
def extract(
    config: ConfigArgument,
    set_: SetOption = None,
    cache: CacheOption = None,
    dask: DaskOption = None,
) -> None:
    """Fill the feature cache, without training.

    It extracts the features of all images of the configuration.
    """
    from fusseg.cli.extract import run_extract

    run_extract(config, set_ or [], cache_folder(cache), dask)


@commands.command()
def suggest_k(
    config: ConfigArgument,
    numbers: Annotated[
        str | None, typer.Option("--k", help="Numbers to try, such as 2,4,8; default: 2 to 40.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")] = Path(
        "suggest-k.html"
    ),
    set_: SetOption = None,
    cache: CacheOption = None,
) -> None:
    """Suggest a number of clusters, without labels.

    It looks at the features before anything is trained.
    """
    from fusseg.cli.suggest_k import SuggestOptions, run_suggest

    options = SuggestOptions(out, cache_folder(cache), this_command(), numbers)
    run_suggest(config, set_ or [], options)


@commands.command()
def run(  # noqa: PLR0913 - one per option
    config: NewOrResumedArgument = None,
    set_: SetOption = None,
    preset: PresetOption = "default",
    out: RunDirOption = None,
    resume: ResumeOption = False,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Start from the model of this run: same regions, same names."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Also log to tensorboard, mlflow or wandb; can be repeated."),
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Train a federation and score it."""
    from fusseg.cli.run import run_training, start_overrides

    overrides = set_ or []
    if start is not None:
        if resume:
            raise typer.BadParameter(
                "--from starts a new run, --resume continues one; leave out one of the two"
            )
        if config is None and preset != "default":
            raise typer.BadParameter(
                "--preset fills in what CONFIG.toml leaves out, and the settings of the run of "
                "--from leave out none; give CONFIG.toml, or leave out --preset"
            )
        out = out or (None if config else dated_run_dir(start.resolve().name))
        overrides = start_overrides(start, overrides)
    out = new_run_dir(config or start, out, resume=resume)
    resume_command = f"fusseg run --resume --out {shlex.quote(str(out))}"
    if cache is not None:
        resume_command += f" --cache {shlex.quote(str(cache))}"
    with interruptible(out, resume_command):
        folder = cache_folder(cache)
        settings = choose_settings(config, overrides, out if resume else start, preset)
        run_training(settings, out, folder, resume=resume, trackers=track or [])


@commands.command()
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
    from fusseg.cli.evaluate import run_evaluate

    given = {"data": data and str(data), "sites": sites, "split": split}
    chosen = {name: value for name, value in given.items() if value}
    run_evaluate(run_dir, chosen, json_file, cache_folder(cache), probe=probe)


@commands.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Page that compares runs; default: compare.html.")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Write a run's report again, or compare runs on one page."""
    from fusseg.cli.report import run_comparison, run_report

    if len(run_dirs) > 1:
        run_comparison(run_dirs, out or Path("compare.html"))
        return
    if out is not None:
        raise typer.BadParameter(
            "--out names the page that compares two or more runs; leave it out"
        )
    if not run_report(run_dirs[0], cache_folder(cache)):
        raise typer.Exit(1)


@commands.command()
def quality(
    run_dir: RunArgument,
    second: Annotated[
        Path | None,
        typer.Argument(help="A run with the same settings and another seed.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write; default: quality.html in RUN_DIR.")
    ] = None,
    site: SiteOption = None,
    cache: CacheOption = None,
) -> None:
    """Measure without labels how clear and stable regions are.

    Stability takes a second run: the same settings and another seed.
    """
    from fusseg.cli.quality import QualityOptions, run_quality

    page = run_dir / "quality.html" if out is None else out
    run_quality(run_dir, second, QualityOptions(page, cache_folder(cache), this_command(), site))


@commands.command()
def adapt(
    run_dir: RunArgument,
    images: Annotated[
        Path, typer.Argument(help="Folder of sites, or of images.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="New run directory.")],
    steps: Annotated[
        int, typer.Option(help="Largest number of Lloyd steps; 0: adapt only the mean feature.")
    ] = 10,
    min_cosine: Annotated[
        float, typer.Option(help="Lowest cosine allowed between a new centroid and its old one.")
    ] = 0.8,
    cache: CacheOption = None,
) -> None:
    """Move a run's centroids to fit new images.

    The head stays as it is. A page shows the regions before and after.
    """
    from fusseg.cli.adapt import run_adapt
    from fusseg.federation.lloyd_steps import Adaptation

    adaptation = Adaptation(steps, min_cosine)
    run_adapt(run_dir, images, out, adaptation, cache_folder(cache), this_command())


@commands.command()
def teach(
    run_dir: RunArgument,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Folder with images/ and masks/ (or of such folders)."),
    ] = None,
    clicks: Annotated[
        Path | None,
        typer.Option("--clicks", help="Table of labeled pixels: stem, x, y, class."),
    ] = None,
    label_list: Annotated[
        Path | None,
        typer.Option("--list", help="Only the masks of the images in this file teach."),
    ] = None,
    shrinkage: Annotated[
        float | None,
        typer.Option(help="Share of the mean variance added to all; default: chosen by trial."),
    ] = None,
    unknown_below: Annotated[
        float, typer.Option(help="Posterior below which a pixel keeps its region.")
    ] = 0.0,
    cache: CacheOption = None,
) -> None:
    """Teach a run classes from a few labels.

    Predictions, exports and reports name classes from then on.
    """
    from fusseg.cli.teach import run_teach
    from fusseg.config.schema import TeachConfig
    from fusseg.runs.teach import LabelSource

    settings = TeachConfig(
        shrinkage="auto" if shrinkage is None else shrinkage,
        unknown_below=unknown_below,
        label_list="" if label_list is None else str(label_list),
    )
    run_teach(run_dir, LabelSource(labels, clicks), settings, cache_folder(cache))


@commands.command()
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
        typer.Option(
            help="Resize factor before the backbone, such as 0.5; default: as in training."
        ),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Longest side that the backbone sees at once, in pixels.")
    ] = None,
    refine: Annotated[
        str, typer.Option(help="Move region borders to image edges: none, guided (fast) or crf.")
    ] = "none",
    batch: Annotated[int, typer.Option(help="Images or tiles per forward pass.")] = 1,
    again: Annotated[
        bool, typer.Option("--again", help="Also segment images that are already done.")
    ] = False,
    backbone: Annotated[
        str | None,
        typer.Option(help="For a model file: this machine's backbone, onnx:PATH or FOLDER."),
    ] = None,
    regions: RegionsOption = False,
) -> None:
    """Segment images of any size.

    Each image gets an index PNG, an overlay and a JSON file of areas.
    """
    from fusseg.cli.predict import run_predict

    loaded = {"site": site, "backbone": backbone, "regions": regions}
    chosen = {"scale": scale, "tile": tile, "refine": refine, "batch": batch}
    with stopped_with("stopped; run the same command again to continue"):
        done = run_predict(run_dir, images, out, loaded, chosen, again=again)
    if not done:
        raise typer.Exit(1)


@commands.command()
def name(
    run_dir: RunArgument,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="Folder of sites with masks: take the names from their classes."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Images to cut the crops from; default: the run's."),
    ] = None,
    site: SiteOption = None,
    again: Annotated[bool, typer.Option("--again", help="Replace existing names.")] = False,
) -> None:
    """Show each cluster, and write regions.toml to name them in."""
    from fusseg.cli.name import NameOptions, run_name

    run_name(NameOptions(run_dir, labels, images, site, again))


@commands.command()
def annotate(  # noqa: PLR0913 - one per option
    predictions: Annotated[
        Path, typer.Argument(help="Folder that fusseg predict wrote.", show_default=False)
    ],
    images: Annotated[Path, typer.Option("--images", help="Folder of the images.")],
    format_: Annotated[str, typer.Option("--format", help="coco, label-studio, cvat or labelme.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; for labelme a folder.")],
    shapes: Annotated[str, typer.Option(help="polygons, or rle (masks).")] = "polygons",
    instances: Annotated[
        str, typer.Option(help="One annotation per connected part (components), or per region.")
    ] = "components",
    tolerance: Annotated[
        float, typer.Option(help="Largest distance of a polygon from the border, in pixels.")
    ] = 1.0,
    min_area: Annotated[
        int, typer.Option(help="Leave out parts, and fill holes, of fewer pixels than this.")
    ] = 25,
    regions: Annotated[
        Path | None,
        typer.Option("--regions", help="The run's regions.toml, for names and colors."),
    ] = None,
    image_prefix: Annotated[
        str | None,
        typer.Option(help="label-studio: text before an image's path in its address."),
    ] = None,
) -> None:
    """Convert predictions for a labeling tool.

    The formats are those of COCO, Label Studio, CVAT and LabelMe.
    """
    from fusseg.cli.annotate import AnnotateOptions, choose_how, run_annotate

    how = choose_how(shapes, instances, tolerance, min_area)
    options = AnnotateOptions(predictions, images, format_, out, regions, image_prefix, how)
    if not run_annotate(options):
        raise typer.Exit(1)


@commands.command()
def pack(
    run_dir: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write: *.safetensors.")],
    site: SiteOption = None,
    with_sites: WithSitesOption = False,
) -> None:
    """Write a run's model as one file.

    It can be used without the run.
    """
    from fusseg.cli.pack import run_pack

    run_pack(run_dir, out, site, with_sites=with_sites)


@commands.command()
def push(  # noqa: PLR0913 - one per option
    run_dir: RunArgument,
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face hub.")
    ],
    license_id: Annotated[
        str | None,
        typer.Option("--license", help="License, by the hub's name for it, such as apache-2.0."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="Picture for the model card.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    site: SiteOption = None,
    with_sites: WithSitesOption = False,
    dry_run: Annotated[
        Path | None,
        typer.Option("--dry-run", help="Write the files to this folder, and send nothing."),
    ] = None,
) -> None:
    """Send a run's model and its card to the Hugging Face hub."""
    from fusseg.cli.push import run_push
    from fusseg.export.hub import Publication

    publication = Publication(repo, private, license_id, preview)
    run_push(run_dir, publication, site, dry_run, with_sites=with_sites)


@commands.command()
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
        bool, typer.Option("--force", help="Keep the file even if it differs from the model.")
    ] = False,
    regions: RegionsOption = False,
) -> None:
    """Export a run's model to ONNX, and compare the two.

    Both segment real images. The exit code is 1 if they differ. Needs fusseg[onnx].
    """
    for module in ("onnx", "onnxscript"):
        require(module, "fusseg export")
    from fusseg.cli.export import run_export

    if not run_export(run_dir, out, images or [], site, regions=regions, force=force):
        raise typer.Exit(1)


@commands.command()
def serve(  # noqa: PLR0913 - one per option
    sites: Annotated[Path, typer.Option("--sites", help="sites.toml: who may join.")],
    keys: Annotated[
        Path, typer.Option("--keys", help="Folder of ca.crt, server.crt and server.key.")
    ],
    config: NewOrResumedArgument = None,
    set_: SetOption = None,
    out: RunDirOption = None,
    resume: ResumeOption = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8443,
    cache: CacheOption = None,
) -> None:
    """Run a federation of sites on other machines.

    Needs fusseg[flower].
    """
    require("flwr", "fusseg serve")
    from fusseg.cli.serve import resume_command, run_serve
    from fusseg.deployment.server.serve import ServeOptions

    run_dir = new_run_dir(config, out, resume=resume)
    options = ServeOptions(run_dir, cache_folder(cache), sites, keys, host, port)
    with interruptible(run_dir, resume_command(options)):
        settings = choose_settings(config, set_ or [], run_dir)
        run_serve(settings, options, resume=resume)


@commands.command()
def join(  # noqa: PLR0913 - one per option
    server: Annotated[str, typer.Argument(help="HOST:PORT of the server.", show_default=False)],
    data: Annotated[Path, typer.Option("--data", help="This site's folder of images.")],
    name: Annotated[str, typer.Option("--name", help="This site's name in sites.toml.")],
    key: Annotated[Path, typer.Option("--key", help="This site's private key.")],
    ca: Annotated[Path, typer.Option("--ca", help="ca.crt of the federation.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            help="This site's copy of the backbone: efficientnet-lite2, onnx:PATH, FOLDER or ID."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Agree to these settings and no others.")
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option("--roster", help="Names and keys of all sites: only secure sums leave."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder for this site's ledger and models.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Exit after one federation.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="With --config: show what would be sent, and send nothing."),
    ] = False,
    cache: CacheOption = None,
) -> None:
    """Take part in a federation with this machine's images.

    Needs fusseg[flower].
    """
    require("flwr", "fusseg join")
    from fusseg.cli.join import run_dry, run_join, site_folder
    from fusseg.deployment.site.join import JoinOptions
    from fusseg.deployment.site.site_disk import SiteSettings

    folder = site_folder(name) if state is None else state
    settings = SiteSettings(
        name=name,
        data=str(data.absolute()),
        cache=str(cache_folder(cache).absolute()),
        backbone=backbone,
        pinned=None if config is None else str(config.absolute()),
        roster=None if roster is None else str(roster.absolute()),
    )
    options = JoinOptions(server, folder.absolute(), key, ca, once)
    with stopped_with("stopped; run the same command again to continue"):
        (run_dry if dry_run else run_join)(settings, options)


@commands.command()
def ledger(
    folder: Annotated[
        Path, typer.Argument(help="Run directory of a server, or --state folder of a site.")
    ],
    site: Annotated[str | None, typer.Option(help="Only messages to and from this site.")] = None,
) -> None:
    """Print every message that was sent or received.

    Each with its tensors, bytes and digest.
    """
    from fusseg.cli.ledger import run_ledger

    run_ledger(folder, site)


class _BenchCommand(typer.core.TyperCommand):
    """Says where `fusseg bench speed` went, whatever its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's own
        """Read the arguments."""
        former = {"--quick", "--device", "--json", "--backbone"}
        given = {argument.partition("=")[0] for argument in args}
        if args[:1] == ["speed"] or ("speed" in args and former & given):
            ctx.fail(
                "the measurements of speed are no longer part of the package; run "
                "`python -m benchmarks.speed` in a checkout of the repository"
            )
        return super().parse_args(ctx, args)


@commands.command(cls=_BenchCommand)
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
        Path | None,
        typer.Option("--out", help="Folder of the grid's runs; default: runs/bench-GRID."),
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
    """Run a grid of experiments, and write its table.

    It runs every method on every data set (column) with every seed.
    """
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
    with stopped_with(f"stopped; continue with: {options.command}"):
        done = run_bench(options)
    if not done:
        raise typer.Exit(1)


@commands.command()
def doctor(cache: CacheOption = None) -> None:
    """Show what is installed, and which devices there are.

    It also lists the weights in the cache of the Hugging Face hub.
    """
    from fusseg.cli.doctor import run_doctor

    run_doctor(cache_folder(cache))


@commands.command()
def cache(
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete features that meet all given conditions, or --all."),
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(help="Only features not used for this many days.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Only features of this backbone.")] = None,
    site: Annotated[str | None, typer.Option(help="Only features of this site.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --prune: delete everything.")
    ] = False,
    cache: CacheOption = None,
) -> None:
    """List the feature cache, or delete parts of it.

    The list has site, backbone, size, images, bytes and last use.
    """
    from fusseg.cli.cache import choose_stores, list_cache, prune_cache

    folder = cache_folder(cache)
    stores = choose_stores(folder, older_than, backbone, site)
    if not prune:
        list_cache(folder, stores)
        return
    unconditional = older_than is None and backbone is None and site is None
    if unconditional and not everything:
        raise typer.BadParameter(
            "--prune needs a condition: --older-than DAYS, --backbone, --site, or --all"
        )
    prune_cache(folder, stores, everything=unconditional)


keys_commands = typer.Typer(
    help="Make the certificates of the server and the keys of the sites.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
KeysOutOption = Annotated[
    Path, typer.Option("--out", help="Folder to write to; made if it is missing.")
]
DaysOption = Annotated[int, typer.Option("--days", help="How long it is valid, in days.")]


@keys_commands.command()
def ca(out: KeysOutOption, days: DaysOption = 3650) -> None:
    """Make the federation's own certificate authority, once."""
    require("cryptography", "fusseg keys")
    from fusseg.cli.keys import run_authority

    run_authority(out, days)


@keys_commands.command()
def server(
    hosts: Annotated[
        list[str],
        typer.Argument(
            help="DNS names or IP addresses at which sites reach the server.",
            metavar="HOST...",
            show_default=False,
        ),
    ],
    authority: Annotated[Path, typer.Option("--ca", help="Folder of ca.key and ca.crt.")],
    out: KeysOutOption,
    days: DaysOption = 365,
) -> None:
    """Make the server's key and certificate."""
    require("cryptography", "fusseg keys")
    from fusseg.cli.keys import run_server

    run_server(hosts, authority, out, days)


@keys_commands.command()
def site(
    name: Annotated[str, typer.Argument(help="Name of the site.", show_default=False)],
    out: KeysOutOption,
    days: DaysOption = 365,
) -> None:
    """Make the key that proves a site's identity; best done at the site itself."""
    require("cryptography", "fusseg keys")
    from fusseg.cli.keys import run_site

    run_site(name, out, days)
