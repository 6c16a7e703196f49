"""Numbers and tables for the pages, computed from a run's record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from fusseg.federation.judge import CHOICE, TRAINED
from fusseg.federation.lloyd_steps import FINISH
from fusseg.runs.choice import chosen_start, keeps_start, name_last


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a score."""

    mean: float
    std: float | None
    """Sample standard deviation; None for a single value."""
    low: float
    high: float
    num: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Summarize the values that are not None; None if there are none."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    std = stdev(found) if len(found) > 1 else None
    return Spread(fmean(found), std, min(found), max(found), len(found))


def latest_scores(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the final scores, or those of the last scored round of an unfinished run."""
    if record["final"] is not None:
        return None if record["final"]["mean_iou"] is None else record["final"]
    scored = [entry for entry in record["rounds"] if entry["mean_iou"] is not None]
    return scored[-1] if scored else None


def is_choice(entry: Mapping[str, Any]) -> bool:
    """Tell whether an entry is the choice between start and trained model, which moves no model."""
    return entry.get("phase") == CHOICE


def counted_rounds(rounds: Sequence[Mapping[str, Any]]) -> int:
    """Count the rounds that move the model: those of training and of the Lloyd finish."""
    return sum(entry["round"] > 0 and not is_choice(entry) for entry in rounds)


def round_name(entry: Mapping[str, Any]) -> str:
    """Name a round by its number, and the choice by its name."""
    return CHOICE if is_choice(entry) else str(entry["round"])


def name_trained(record: Mapping[str, Any]) -> str | None:
    """Say which model has the scores after training; None: the one that all other scores are of."""
    trained = record.get("trained")
    if trained is None or trained["mean_iou"] is None:
        return None
    # Older records have no phase, and such scores only before a finish.
    finish = any(entry.get("phase", FINISH) == FINISH for entry in record["rounds"])
    if keeps_start(record.get("candidates") or ()):
        return "Trained model, which was not kept" + (", before its Lloyd steps" if finish else "")
    return "Before the finish of Lloyd steps" if finish else None


@dataclass(frozen=True)
class JudgedModel:
    """A model that the clients judged without labels, as a row of a table."""

    name: str
    agreement: float
    margin: float
    use: str
    """What it was used for; empty: nothing."""


def judged_models(record: Mapping[str, Any]) -> list[JudgedModel]:
    """List the models that were judged, in their order; older records have none."""
    candidates = record.get("candidates") or ()
    start = chosen_start(candidates)
    models = []
    for one in candidates:
        name = name_last(record) if one["name"] == TRAINED else one["name"]
        use = "kept" if one["kept"] else "round 1 began with it" if one is start else ""
        models.append(JudgedModel(name, one["agreement"], one["margin"], use))
    return models


def site_spread(record: Mapping[str, Any], name: str) -> Spread | None:
    """Summarize a score over the scored sites; None if there are none."""
    final = record["final"]
    return None if final is None else spread([site[name] for site in final["sites"].values()])


def model_spread(record: Mapping[str, Any], name: str) -> Spread | None:
    """Summarize a score over the clients' own models; None if they share one."""
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
    """Add up `bytes_up` or `bytes_down` over the exchange before round 1 and all rounds."""
    before = 0 if record["hello"] is None else record["hello"][name]
    total: int = before + sum(entry[name] for entry in record["rounds"])
    return total


def incidents(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the sites of a deployment that were left out; simulations have none."""
    return [
        {"round": entry["round"], **incident}
        for entry in rounds
        for incident in entry.get("incidents", [])
    ]


def class_names(final: Mapping[str, Any]) -> list[str]:
    """Name the classes, the columns of the confusion matrix."""
    if final["per_class_iou"]:
        return list(final["per_class_iou"])
    return [f"class {index}" for index in range(len(final["confusion"][0]))]


def num_regions(record: Mapping[str, Any]) -> int:
    """Read the number of regions; older records have as many regions as clusters."""
    found: int = record.get("num_regions", record["num_clusters"])
    return found


def cluster_names(
    num_clusters: int,
    given: Sequence[str] | None,
    matching: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
) -> list[str]:
    """Name each region by its number (from 0), its given name and its matched class.

    >>> cluster_names(2, None)
    ['cluster 0', 'cluster 1']
    >>> cluster_names(2, ["asphalt", "sky"], matching=[0, -1], class_names=["road"])
    ['0 asphalt → road', '1 sky (unmatched)']

    Args:
        num_clusters: Number of regions, K.
        given: The user's name of each region; None: there are none.
        matching: Class of each region, -1 if unmatched; None if nothing is scored.
        class_names: Names of the classes.
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
    """Share of the cluster's pixels, in [0, 1]."""
    matched: bool
    """Whether this is the class that the cluster is matched with."""


@dataclass(frozen=True)
class ConfusionRow:
    """The row of one cluster in the confusion table."""

    name: str
    cells: tuple[ConfusionCell, ...]
    pixels: int


def confusion_rows(
    confusion: Sequence[Sequence[int]],
    matching: Sequence[int],
    class_names: Sequence[str],
    names: Sequence[str],
) -> list[ConfusionRow]:
    """Make the confusion table, with clusters in the order of their matched classes.

    Args:
        confusion: Pixel counts per cluster (row) and class (column).
        matching: Class of each cluster, -1 if unmatched; unmatched clusters come last.
        class_names: Names of the classes, in the order of the columns.
        names: Names of the clusters.
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
