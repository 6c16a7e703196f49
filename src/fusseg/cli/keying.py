"""The commands `fusseg keys`: certificates for the server, keys for the sites."""

from pathlib import Path
from typing import Annotated

import typer

from fusseg.core.errors import ConfigError
from fusseg.core.visible_text import say

keys_app = typer.Typer(
    help="Make the certificates of the server and the keys of the sites.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write to; it may be new.")]
DaysOption = Annotated[int, typer.Option("--days", help="How long it is valid, in days.")]


@keys_app.command("ca")
def ca(out: OutOption, days: DaysOption = 3650) -> None:
    """Make the federation's own certificate authority, once."""
    run_authority(out, days)


@keys_app.command("server")
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
    out: OutOption,
    days: DaysOption = 365,
) -> None:
    """Make the server's key and certificate."""
    run_server(hosts, authority, out, days)


@keys_app.command("site")
def site(
    name: Annotated[str, typer.Argument(help="Name of the site.", show_default=False)],
    out: OutOption,
    days: DaysOption = 365,
) -> None:
    """Make the key by which a site proves who it is; best done at the site itself."""
    run_site(name, out, days)


def run_authority(out: Path, days: int) -> None:
    """Make an authority and say what to do with its files."""
    _check_installed()
    from fusseg.deployment.keys.keys import create_authority

    key, certificate = create_authority(out, days)
    say(f"wrote {key}\nwrote {certificate}")
    say(
        f"Keep {key.name} offline: whoever has it can pretend to be the server. It is needed only "
        f"for `fusseg keys server`.\nGive {certificate.name} to every site."
    )


def run_server(hosts: list[str], authority: Path, out: Path, days: int) -> None:
    """Make a server certificate and say what to do with its files."""
    _check_installed()
    from fusseg.deployment.keys.credentials import read_certificate_expiry
    from fusseg.deployment.keys.keys import create_server_certificate

    key, certificate = create_server_certificate(authority, hosts, out, days)
    say(f"wrote {key}\nwrote {certificate}")
    say(
        f"Both belong on the server, with ca.crt beside them; {key.name} never leaves it. Valid "
        f"until {read_certificate_expiry(certificate):%Y-%m-%d}; make new ones before."
    )


def run_site(name: str, out: Path, days: int) -> None:
    """Make a site's key and say what to do with its files."""
    _check_installed()
    from fusseg.deployment.keys.keys import create_site_key

    made = create_site_key(name, out, days)
    say(f"wrote {made.private_key}\nwrote {made.public_key}")
    say(
        f"{made.private_key.name} never leaves the site. Send these lines to the server's "
        f"operator, for sites.toml; they hold the key of {made.public_key.name}:\n\n{made.entry}"
    )


def _check_installed() -> None:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"fusseg keys needs the package {error.name}; pip install 'fusseg[flower]'"
        ) from error
