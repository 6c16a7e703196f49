"""What the pages say in numbers, gathered from a run's record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Mean of a score and how far its values lie apart."""

    mean: float
    std: float | None
    """Sample standard deviation; None for a single value."""
    low: float
    high: float
    num: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Sum up the values there are; None where there is none."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    std = stdev(found) if len(found) > 1 else None
    return Spread(fmean(found), std, min(found), max(found), len(found))


def latest_scores(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Pick the final scores, or those of the last scored round of an unfinished run."""
    if record["final"] is not None:
        return None if record["final"]["mean_iou"] is None else record["final"]
    scored = [entry for entry in record["rounds"] if entry["mean_iou"] is not None]
    return scored[-1] if scored else None


def site_spread(record: Mapping[str, Any], name: str) -> Spread | None:
    """Sum up a score over the scored sites; None where there is none."""
    final = record["final"]
    return None if final is None else spread([site[name] for site in final["sites"].values()])


def model_spread(record: Mapping[str, Any], name: str) -> Spread | None:
    """Sum up a score over the clients' own models; None where they share one."""
    final = record["final"]
    return None if final is None else spread([model[name] for model in final["models"]])


def traffic_by_client(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Add up the bytes of each client over all rounds."""
    totals: dict[str, dict[str, int]] = {}
    for entry in rounds:
        for client in entry["clients"]:
            total = totals.setdefault(client["client_id"], {"up": 0, "down": 0})
            total["up"] += client["bytes_up"]
            total["down"] += client["bytes_down"]
    return dict(sorted(totals.items()))


def total_bytes(record: Mapping[str, Any], name: str) -> int:
    """Add up `bytes_up` or `bytes_down`: what came before round 1, and all rounds."""
    before = 0 if record["hello"] is None else record["hello"][name]
    total: int = before + sum(entry[name] for entry in record["rounds"])
    return total


def incidents(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the sites of a deployment that were left out; records before deployments name none."""
    return [
        {"round": entry["round"], **incident}
        for entry in rounds
        for incident in entry.get("incidents", [])
    ]


def class_names(final: Mapping[str, Any]) -> list[str]:
    """Name the columns of the confusion."""
    if final["per_class_iou"]:
        return list(final["per_class_iou"])
    return [f"class {index}" for index in range(len(final["confusion"][0]))]


def cluster_names(
    num_clusters: int,
    given: Sequence[str] | None,
    matching: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
) -> list[str]:
    """Name each cluster by its number (from 0), its given name and the class it is matched with.

    Args:
        num_clusters: K.
        given: The user's name of each; None: there are none.
        matching: Class of each, -1 where it has none; None where nothing is scored.
        class_names: In order of the classes.
    """
    names = []
    for cluster in range(num_clusters):
        own = f"cluster {cluster}"
        if given is not None and given[cluster] != own:
            own = f"{cluster} {given[cluster]}"
        if matching is None:
            names.append(own)
            continue
        matched = "" if matching[cluster] < 0 else class_names[matching[cluster]]
        own = own.removeprefix("cluster ")
        if own == f"{cluster} {matched}":
            names.append(own)
        else:
            names.append(f"{own} → {matched}" if matched else f"{own} (unmatched)")
    return names


@dataclass(frozen=True)
class ConfusionCell:
    """The pixels of one cluster in one class."""

    class_name: str
    pixels: int
    share: float
    """Of the cluster's pixels, in [0, 1]."""
    matched: bool
    """Whether this is the cluster's class."""


@dataclass(frozen=True)
class ConfusionRow:
    """One cluster."""

    name: str
    cells: tuple[ConfusionCell, ...]
    pixels: int


def confusion_rows(
    confusion: Sequence[Sequence[int]],
    matching: Sequence[int],
    class_names: Sequence[str],
    names: Sequence[str],
) -> list[ConfusionRow]:
    """Say how each cluster's pixels spread over the classes, clusters in the order of matching.

    Args:
        confusion: Pixels per cluster (row) and class (column).
        matching: Class of each cluster, -1 where it has none; such clusters come last.
        class_names: In the order of the columns.
        names: Of the clusters.
    """
    order = sorted(
        range(len(confusion)), key=lambda cluster: (matching[cluster] < 0, matching[cluster])
    )
    return [
        _row(names[cluster], confusion[cluster], matching[cluster], class_names)
        for cluster in order
    ]


def _row(
    name: str, counts: Sequence[int], matched: int, class_names: Sequence[str]
) -> ConfusionRow:
    total = sum(counts)
    cells = tuple(
        ConfusionCell(class_name, pixels, pixels / max(1, total), number == matched)
        for number, (pixels, class_name) in enumerate(zip(counts, class_names, strict=True))
    )
    return ConfusionRow(name, cells, total)
