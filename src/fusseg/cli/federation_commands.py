"""The commands of a federation on several machines; heavy imports wait as in `app`."""

from pathlib import Path
from typing import Annotated

import typer

from fusseg.cli.options import (
    CacheOption,
    NewOrResumedArgument,
    ResumeOption,
    RunDirOption,
    SetOption,
    cache_folder,
    interruptible,
    new_run_dir,
    stopped_with,
)

federation_app = typer.Typer(rich_markup_mode=None)


@federation_app.command()
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
    """Run a federation of sites on other machines; needs fusseg[flower]."""
    from fusseg.cli.deploying import ResumeHint, check_installed, run_serve

    check_installed()
    from fusseg.deployment.server.serve import ServeOptions

    run_dir = new_run_dir(config, out, resume=resume)
    options = ServeOptions(run_dir, cache_folder(cache), sites, keys, host, port)
    with interruptible(run_dir, str(ResumeHint(options))):
        run_serve(config, set_ or [], options, resume=resume)


@federation_app.command()
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
    from fusseg.deployment.site.join import JoinOptions
    from fusseg.deployment.site.site_disk import SiteSettings

    folder = site_folder(name) if state is None else state
    settings = SiteSettings(
        name=name,
        data=str(data.absolute()),
        cache=str(cache_folder(cache).absolute()),
        backbone=backbone,
        pinned=None if config is None else str(config.absolute()),
    )
    options = JoinOptions(server, folder.absolute(), key, ca, once)
    with stopped_with("stopped; the same command goes on"):
        (run_dry if dry_run else run_join)(settings, options)


@federation_app.command()
def ledger(
    folder: Annotated[
        Path, typer.Argument(help="Run directory of a server, or --state folder of a site.")
    ],
    site: Annotated[str | None, typer.Option(help="Only messages from and to this site.")] = None,
) -> None:
    """Print every message that left or arrived: tensors, bytes, digest."""
    from fusseg.cli.deploying import run_ledger

    run_ledger(folder, site)
