"""The commands `fusseg keys`: certificates for the server, keys for the sites."""

from pathlib import Path

from fusseg.core.visible_text import say
from fusseg.deployment.keys.credentials import read_certificate_expiry
from fusseg.deployment.keys.keys import create_authority, create_server_certificate, create_site_key


def run_authority(out: Path, days: int) -> None:
    """Make a certificate authority and print what to do with its files."""
    key, certificate = create_authority(out, days)
    say(f"wrote {key}\nwrote {certificate}")
    say(
        f"Keep {key.name} offline: whoever has it can pretend to be the server. It is needed only "
        f"for `fusseg keys server`.\nGive {certificate.name} to every site."
    )


def run_server(hosts: list[str], authority: Path, out: Path, days: int) -> None:
    """Make a server certificate and print what to do with its files."""
    key, certificate = create_server_certificate(authority, hosts, out, days)
    say(f"wrote {key}\nwrote {certificate}")
    say(
        f"Keep both on the server, with ca.crt beside them; {key.name} never leaves it. The "
        f"certificate is valid until {read_certificate_expiry(certificate):%Y-%m-%d}; make a new "
        "key and certificate before then."
    )


def run_site(name: str, out: Path, days: int) -> None:
    """Make a site's key and print what to do with its files."""
    made = create_site_key(name, out, days)
    say(f"wrote {made.private_key}\nwrote {made.public_key}")
    say(
        f"{made.private_key.name} never leaves the site. Send these lines to the server's "
        "operator, for sites.toml; they hold the public key from "
        f"{made.public_key.name}:\n\n{made.entry}"
    )
