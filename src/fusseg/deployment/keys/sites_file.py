"""The file `sites.toml`: the sites that may join, their keys, expiry dates and image limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from fusseg.config.file import read_toml
from fusseg.core.errors import ConfigError, nearest_name
from fusseg.federation.checks import MOST_IMAGES

MAX_NAME_LENGTH = 100

_REQUIRED = ("public_key", "expires")
_KEYS = (*_REQUIRED, "max_images")


@dataclass(frozen=True)
class ApprovedSite:
    """A site that may join."""

    name: str
    """Its client id."""
    public_key: str
    """Key in OpenSSH form: type and base64, without a comment."""
    expires: date
    """Last day (UTC) on which it may join."""
    max_images: int | None = None
    """Most images that the site may claim; None: any number."""


def read_sites(path: Path) -> tuple[ApprovedSite, ...]:
    """Read the approved sites, sorted by name.

    Raises:
        ConfigError: If the file cannot be read, names no site, contains an unknown key or a wrong
            value, or gives two sites the same public key.
    """
    table = read_toml(path)
    for key in table:
        if key != "sites":
            raise ConfigError(f"unknown key {key!r}; {nearest_name(key, ['sites'])}: {path}")
    entries = table.get("sites")
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(
            f"sites must be at least one section [sites.NAME], got {entries!r}: {path}"
        )
    try:
        sites = tuple(_site(name, entries[name]) for name in sorted(entries))
        _check_keys_differ(sites)
    except ConfigError as error:
        raise ConfigError(f"{error}: {path}") from error
    return sites


def is_expired(site: ApprovedSite, today: date) -> bool:
    """Tell whether the last day of a site's key has passed.

    Args:
        site: The site.
        today: Today's date in UTC.
    """
    return today > site.expires


def check_site_name(name: str) -> None:
    """Refuse a name that cannot be a client id and part of a file name.

    Raises:
        ConfigError: If it is empty or too long, begins with a dot, or contains a slash or an
            unprintable character.
    """
    if not name or len(name) > MAX_NAME_LENGTH:
        raise ConfigError(
            f"the name of a site must have 1 to {MAX_NAME_LENGTH} characters, got {len(name)}"
        )
    if name.startswith("."):
        raise ConfigError(f"the name of a site must not begin with a dot, got {name!r}")
    if "/" in name or not name.isprintable():
        raise ConfigError(
            f"the name of a site must have no slash and no control characters, got {name!r}"
        )


def _site(name: str, entry: Any) -> ApprovedSite:  # noqa: ANN401 - whatever TOML holds
    check_site_name(name)
    if not isinstance(entry, Mapping):
        raise ConfigError(f"site {name!r} must be a section [sites.NAME], got {entry!r}")
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"unknown key {key!r} of site {name!r}; {nearest_name(key, _KEYS)}")
    for key in _REQUIRED:
        if key not in entry:
            raise ConfigError(f"site {name!r} has no {key}; add what `fusseg keys site` printed")
    expires = entry["expires"]
    # A datetime is a date too.
    if type(expires) is not date:
        raise ConfigError(
            f"expires of site {name!r} must be a date such as 2027-11-24, without quotation "
            f"marks, got {expires!r}"
        )
    max_images = entry.get("max_images")
    if "max_images" in entry and (
        type(max_images) is not int or not 2 <= max_images <= MOST_IMAGES
    ):
        raise ConfigError(
            f"max_images of site {name!r} must be a whole number from 2 to {MOST_IMAGES}, got "
            f"{max_images!r}"
        )
    return ApprovedSite(name, _public_key(name, entry["public_key"]), expires, max_images)


def _public_key(name: str, line: Any) -> str:  # noqa: ANN401 - whatever TOML holds
    try:
        key = load_ssh_public_key(line.strip().encode()) if isinstance(line, str) else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    # OpenSSH supports only NIST's curves, and Flower accepts no other keys.
    if not isinstance(key, ec.EllipticCurvePublicKey):
        # Only its first word: it may be a private key that was pasted by mistake.
        first = line.split()[0][:30] if isinstance(line, str) and line.split() else line
        raise ConfigError(
            f"public_key of site {name!r} must be the line of its .pub file, "
            f"'ecdsa-sha2-nistp384 AAAA...', got one that begins with {first!r}"
        )
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _check_keys_differ(sites: tuple[ApprovedSite, ...]) -> None:
    owners: dict[str, str] = {}
    for site in sites:
        owner = owners.setdefault(site.public_key, site.name)
        if owner != site.name:
            raise ConfigError(
                f"sites {owner!r} and {site.name!r} have the same public key; "
                "make one for each with `fusseg keys site`"
            )
