"""The commands about this machine: what is installed, what is kept; heavy imports as in `app`."""

from typing import Annotated

import typer

from fusseg.cli.options import CacheOption, cache_folder

machine_app = typer.Typer(rich_markup_mode=None)


@machine_app.command()
def doctor(cache: CacheOption = None) -> None:
    """Say what is installed, which devices are there and which weights are cached."""
    from fusseg.cli.doctoring import run_doctor

    run_doctor(cache_folder(cache))


@machine_app.command("cache")
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
