"""One self-contained page about a run: no network, no other files."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from fusseg.report import figures, formatting
from fusseg.report.embedding import photo_uri, regions_uri
from fusseg.report.templates import open_templates, read_part


@dataclass(frozen=True)
class GalleryEntry:
    """One held-out image and what the model made of it."""

    site: str
    stem: str
    image: UInt8[np.ndarray, "height width 3"]
    regions: UInt8[np.ndarray, "height width 3"]
    """Already colored."""
    label: UInt8[np.ndarray, "height width 3"] | None
    """The mask in the same colors; None where there is none."""
    mean_iou: float | None
    """Score of this image alone, in [0, 1]."""


def render_report(
    record: Mapping[str, Any],
    config_toml: str,
    gallery: Sequence[GalleryEntry],
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> str:
    """Write the page of a run, finished or not; the same input gives the same bytes.

    Args:
        record: Content of `record.json`.
        config_toml: Complete configuration of the run.
        gallery: Examples, shown worst score first.
        legend: RGB of each class or region in the gallery, by its name.

    Returns:
        HTML without any reference to the network or to another file.
    """
    environment = open_templates()
    for name in ("score", "loss", "share", "count", "size", "duration", "listing", "plural"):
        environment.filters[name] = getattr(formatting, name)
    script = read_part("report.js")
    page = environment.get_template("report.html.j2").render(
        record=record,
        config_toml=config_toml,
        style=Markup(read_part("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        scores=_latest_scores(record),
        totals=_traffic_by_client(record["rounds"]),
        incidents=_incidents(record["rounds"]),
        series=figures.client_series(record["rounds"]),
        figures={name: Markup(svg) for name, svg in _draw_figures(record).items()},
        cards=_gallery_cards(gallery),
        legend=legend or {},
    )
    # a name on disk may hold bytes that are no text, which no encoder would take
    return page.encode("utf-8", errors="replace").decode("utf-8")


def _latest_scores(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Pick the final scores, or those of the last scored round of an unfinished run."""
    if record["final"] is not None:
        return None if record["final"]["mean_iou"] is None else record["final"]
    scored = [entry for entry in record["rounds"] if entry["mean_iou"] is not None]
    return scored[-1] if scored else None


def _traffic_by_client(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for entry in rounds:
        for client in entry["clients"]:
            total = totals.setdefault(client["client_id"], {"up": 0, "down": 0})
            total["up"] += client["bytes_up"]
            total["down"] += client["bytes_down"]
    return dict(sorted(totals.items()))


def _incidents(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the sites of a deployment that were left out; records before deployments name none."""
    return [
        {"round": entry["round"], **incident}
        for entry in rounds
        for incident in entry.get("incidents", [])
    ]


def _draw_figures(record: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures for which the record has numbers."""
    drawn = {}
    rounds, final = record["rounds"], record["final"]
    if any(entry["mean_iou"] is not None for entry in rounds):
        drawn["mean_iou"] = figures.mean_iou_curve(rounds)
    trained = [entry for entry in rounds if entry["loss"] is not None]
    if trained:
        drawn["loss"] = figures.loss_curves(trained)
    if final is None:
        return drawn
    if final["per_class_iou"]:
        drawn["classes"] = figures.class_bars(final["per_class_iou"])
    names = [f"cluster {cluster}" for cluster in range(record["num_clusters"])]
    if final["confusion"] is not None and final["matching"] is not None:
        class_names = _class_names(final)
        names = figures.cluster_names(final["matching"], class_names)
        drawn["confusion"] = figures.confusion_heatmap(
            final["confusion"], final["matching"], class_names
        )
    if final["quality"] is not None:
        drawn["clusters"] = figures.cluster_bars(final["quality"]["cluster_share"], names)
    return drawn


def _class_names(final: Mapping[str, Any]) -> list[str]:
    if final["per_class_iou"]:
        return list(final["per_class_iou"])
    return [f"class {index}" for index in range(len(final["confusion"][0]))]


def _gallery_cards(gallery: Sequence[GalleryEntry]) -> list[dict[str, Any]]:
    """Embed the examples, worst score first and those without a score last."""
    ordered = sorted(
        gallery,
        key=lambda entry: (
            entry.mean_iou is None,
            entry.mean_iou or 0.0,
            entry.site,
            entry.stem,
        ),
    )
    return [
        {
            "site": entry.site,
            "stem": entry.stem,
            "mean_iou": entry.mean_iou,
            "width": entry.image.shape[1],
            "height": entry.image.shape[0],
            "image": photo_uri(entry.image),
            "regions": regions_uri(entry.regions),
            "label": None if entry.label is None else regions_uri(entry.label),
        }
        for entry in ordered
    ]
