"""Which sites may take part: Flower's list of keys follows the file `sites.toml`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fusseg.config.schema import Config
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import write_atomically
from fusseg.deployment import flower
from fusseg.deployment.flower import LoopbackServer
from fusseg.deployment.keys.sites_file import ApprovedSite, is_expired, read_sites
from fusseg.deployment.server.events import DeploymentEvent

NODES = "nodes.json"
"""File in Flower's folder: the node id of every site that is admitted now."""


def approved_sites(path: Path, config: Config) -> tuple[ApprovedSite, ...]:
    """Read which sites may take part in a federation today.

    Raises:
        ConfigError: If the file is wrong, nobody is left, or a site would train and be held out.
    """
    sites = read_sites(path)
    chosen = config.data.train_sites
    names = {site.name for site in sites}
    for name in chosen:
        if name not in names:
            raise ConfigError(f"site {name!r} of data.train_sites is not in {path}")
    for name in config.data.held_out_sites:
        if name in names and (not chosen or name in chosen):
            raise ConfigError(
                f"site {name!r} is in {path} and in data.held_out_sites; it cannot train and be "
                "held out"
            )
    today = datetime.now(UTC).date()
    valid = tuple(
        site
        for site in sites
        if not is_expired(site, today) and (not chosen or site.name in chosen)
    )
    if not valid:
        raise ConfigError(f"no key in {path} is valid today, {today}; give the sites new ones")
    return valid


def admit_sites(
    server: LoopbackServer, nodes: Path, approved: Sequence[ApprovedSite]
) -> Iterator[str]:
    """Register the approved keys, and revoke the admission of all others.

    Args:
        server: The running SuperLink.
        nodes: File of the admitted sites, which the rounds read. It is written after every step, so
            that a revoked site is out of the next exchange whatever happens.
        approved: Sites that may take part.

    Yields:
        One line for each change.

    Raises:
        FederationError: If Flower refuses.
        DataError: If the file cannot be written.
    """
    known = _read(nodes)
    wanted = {site.name: site for site in approved}
    keys = {site.name: site.public_key for site in approved}
    for name in [name for name, entry in known.items() if keys.get(name) != entry["public_key"]]:
        node = known.pop(name)["node"]
        _write(nodes, known)
        flower.unregister_site(server, node)
        yield f"{name} is no longer admitted"
    for name, site in wanted.items():
        if name not in known:
            node = flower.register_site(server, name, site.public_key)
            known[name] = {
                "node": node,
                "public_key": site.public_key,
                "max_images": site.max_images,
            }
            _write(nodes, known)
            yield f"{name} is admitted"
        elif known[name]["max_images"] != site.max_images:
            known[name]["max_images"] = site.max_images
            _write(nodes, known)
            yield f"{name} may say it has {site.max_images or 'any number of'} images at its hello"


def forget_strangers(server: LoopbackServer, nodes: Path) -> None:
    """Unregister nodes that belong to no known site, as after a crash between key and file.

    Raises:
        FederationError: If Flower refuses.
    """
    ours = {entry["node"] for entry in _read(nodes).values()}
    for node in flower.list_nodes(server):
        if node not in ours:
            flower.unregister_site(server, node)


@dataclass
class Admission:
    """Keeps Flower's list in line with the file of sites while the rounds run."""

    server: LoopbackServer
    nodes: Path
    """File of the admitted sites."""
    config: Config
    sites: Path
    """`sites.toml`."""
    told: str = ""

    def renew(self) -> Iterator[DeploymentEvent]:
        """Admit and revoke sites according to the current content of the file."""
        try:
            approved = approved_sites(self.sites, self.config)
        except ConfigError as error:
            # A file that is being edited must not end the federation.
            if str(error) != self.told:
                self.told = str(error)
                yield DeploymentEvent("waiting", f"{error}; the sites stay as they were")
            return
        self.told = ""
        for text in admit_sites(self.server, self.nodes, approved):
            yield DeploymentEvent("site", text)


def admitted_nodes(nodes: Path) -> dict[str, int]:
    """Read the node id of every admitted site, sorted by name.

    Raises:
        DataError: If the file is damaged.
    """
    return {name: entry["node"] for name, entry in sorted(_read(nodes).items())}


def admitted_keys(nodes: Path) -> dict[str, str]:
    """Read the public key of every admitted site, in OpenSSH form.

    Raises:
        DataError: If the file is damaged.
    """
    return {name: entry["public_key"] for name, entry in _read(nodes).items()}


def image_limits(nodes: Path) -> dict[str, int | None]:
    """Read how many images each admitted site may claim at most; None: any number.

    Raises:
        DataError: If the file is damaged.
    """
    return {name: entry["max_images"] for name, entry in _read(nodes).items()}


def _read(nodes: Path) -> dict[str, dict[str, Any]]:
    if not nodes.exists():
        return {}
    try:
        found = json.loads(nodes.read_text())
        return {
            str(name): {
                "node": int(entry["node"]),
                "public_key": str(entry["public_key"]),
                "max_images": None if entry.get("max_images") is None else int(entry["max_images"]),
            }
            for name, entry in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot read the admitted sites: {nodes} ({error})") from error


def _write(nodes: Path, known: dict[str, dict[str, Any]]) -> None:
    try:
        write_atomically(nodes, json.dumps(known, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise DataError(f"cannot write {nodes}: {error.strerror}") from error
