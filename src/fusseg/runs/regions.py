"""The file `regions.toml`: names of a run's clusters, and which of them form one region."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w

from fusseg.core.errors import ConfigError, nearest_name
from fusseg.core.files import write_atomically
from fusseg.core.toml_file import load_toml

Color = tuple[int, int, int]
"""RGB in [0, 255]."""

_KEYS = ("cluster", "name", "color")
_HEAD = """\
# What the clusters of this run are called. Look at {sheet} and fill in the names.
# Clusters of one name become one region, with the color of the first of them. A cluster whose name
# stays empty is a region of its own, called "cluster N".
"""


@dataclass(frozen=True)
class NamedCluster:
    """One cluster, as in the file."""

    cluster: int
    name: str
    """Name; empty: not named yet."""
    color: Color


@dataclass(frozen=True)
class Region:
    """A cluster, or several clusters with the same name, shown as one."""

    index: int
    """Pixel value: the lowest number of its clusters."""
    name: str
    color: Color
    clusters: tuple[int, ...]


@dataclass(frozen=True)
class Regions:
    """The regions of a model, sorted by index; every cluster is in exactly one of them."""

    regions: tuple[Region, ...]

    @cached_property
    def index_of(self) -> tuple[int, ...]:
        """Index of the region of each cluster."""
        pairs = {cluster: region.index for region in self.regions for cluster in region.clusters}
        return tuple(pairs[cluster] for cluster in range(len(pairs)))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the region of each cluster."""
        names = {region.index: region.name for region in self.regions}
        return tuple(names[index] for index in self.index_of)

    @property
    def num_clusters(self) -> int:
        """Number of clusters, K."""
        return len(self.index_of)

    @property
    def legend(self) -> dict[str, Color]:
        """Color of each name, in the order of the regions."""
        return {region.name: region.color for region in self.regions}

    @property
    def digest(self) -> str:
        """SHA-256 over all regions, hex."""
        return sha256(repr(self.regions).encode()).hexdigest()


def regions_file(run_dir: Path, site: str | None = None) -> Path:
    """Return the path of the names of a run's regions; each site's own model has its own file.

    Args:
        run_dir: Run directory.
        site: Site that has the model; None: the global model.
    """
    return run_dir / ("regions.toml" if site is None else f"regions-{site}.toml")


def load_regions(run_dir: Path, num_clusters: int, site: str | None = None) -> Regions | None:
    """Read the names of a run's regions; None if there is no file.

    Args:
        run_dir: Run directory.
        num_clusters: Number of clusters of the model; the file must list each of them once.
        site: Site that has the model; None: the global model.

    Raises:
        ConfigError: If the file cannot be read, or a key, cluster, name or color is wrong.
    """
    path = regions_file(run_dir, site)
    return join_clusters(read_named(path, num_clusters)) if path.exists() else None


def join_clusters(named: Sequence[NamedCluster]) -> Regions:
    """Make one region of all clusters with the same name.

    Args:
        named: All clusters, each once.
    """
    groups: dict[str, list[NamedCluster]] = {}
    for entry in sorted(named, key=lambda entry: entry.cluster):
        groups.setdefault(entry.name or f"cluster {entry.cluster}", []).append(entry)
    return Regions(
        tuple(
            Region(group[0].cluster, name, group[0].color, tuple(entry.cluster for entry in group))
            for name, group in groups.items()
        )
    )


def write_named(path: Path, named: Sequence[NamedCluster], sheet: str) -> None:
    """Write the file, so that names can be filled in or corrected.

    Args:
        path: Path of the file.
        named: All clusters, each once.
        sheet: File name of the contact sheet that the comment in the file refers to.

    Raises:
        ConfigError: If it cannot be written.
    """
    tables = [
        {"cluster": entry.cluster, "name": entry.name, "color": hex_color(entry.color)}
        for entry in named
    ]
    text = "\n".join(f"[[regions]]\n{tomli_w.dumps(table)}" for table in tables)
    try:
        write_atomically(path, f"{_HEAD.format(sheet=sheet)}\n{text}".encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def read_named(path: Path, num_clusters: int) -> tuple[NamedCluster, ...]:
    """Read the file, sorted by cluster.

    Raises:
        ConfigError: If the file cannot be read, or a key, cluster, name or color is wrong.
    """
    try:
        table = load_toml(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"regions are not valid TOML ({error}): {path}") from error
    for key in table:
        if key != "regions":
            raise ConfigError(f"unknown key {key!r}; write [[regions]]: {path}")
    entries = table.get("regions")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"regions must be tables [[regions]], got {entries!r}: {path}")
    named = sorted((_read_entry(entry, path) for entry in entries), key=lambda one: one.cluster)
    _check_clusters([entry.cluster for entry in named], num_clusters, path)
    return tuple(named)


def hex_color(color: Color) -> str:
    """Write a color as #rrggbb."""
    return "#" + "".join(f"{value:02x}" for value in color)


def _read_entry(entry: dict[str, Any], path: Path) -> NamedCluster:
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"unknown key {key!r}; {nearest_name(key, _KEYS)}: {path}")
    cluster, name, color = (entry.get(key) for key in _KEYS)
    if not isinstance(cluster, int) or isinstance(cluster, bool):
        raise ConfigError(
            f"cluster must be an integer in every [[regions]], got {cluster!r}: {path}"
        )
    if not isinstance(name, str) or not name.isprintable():
        raise ConfigError(
            f"name of cluster {cluster} must be text on one line, got {name!r}: {path}"
        )
    if not isinstance(color, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise ConfigError(
            f"color of cluster {cluster} must be written as '#rrggbb', got {color!r}: {path}"
        )
    red, green, blue = bytes.fromhex(color[1:])
    return NamedCluster(cluster, name.strip(), (red, green, blue))


def _check_clusters(clusters: Sequence[int], num_clusters: int, path: Path) -> None:
    for cluster in clusters:
        if not 0 <= cluster < num_clusters:
            raise ConfigError(
                f"unknown cluster {cluster}; the model has 0 to {num_clusters - 1}: {path}"
            )
        if clusters.count(cluster) > 1:
            raise ConfigError(f"cluster {cluster} must occur once, got it twice or more: {path}")
    missing = sorted(set(range(num_clusters)) - set(clusters))
    if missing:
        listed = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise ConfigError(
            f"every cluster must occur once, missing {listed}; add them, with an empty name if "
            f"they have none: {path}"
        )
