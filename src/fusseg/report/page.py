"""One self-contained page about a run, without references to the network or other files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from fusseg.evaluation.scores import score_named
from fusseg.report import centroid_map, figures, numbers
from fusseg.report.centroid_map import CentroidMap
from fusseg.report.embedding import photo_uri, regions_uri
from fusseg.report.formatting import name_scored
from fusseg.report.numbers import confusion_rows
from fusseg.report.svg import SHAPES, series_mark
from fusseg.report.templates import render_page
from fusseg.runs.choice import MORE_THAN, MOST_LOST, describe_choice, keeps_start, name_last
from fusseg.runs.record import count_images


@dataclass(frozen=True)
class GalleryEntry:
    """One image with its segmentation."""

    site: str
    stem: str
    image: UInt8[np.ndarray, "height width 3"]
    regions: UInt8[np.ndarray, "height width 3"]
    """The regions in color."""
    label: UInt8[np.ndarray, "height width 3"] | None
    """The mask in the same colors; None if there is no mask."""
    mean_iou: float | None
    """Score of this image alone, in [0, 1]; None if it is not scored."""
    classes: UInt8[np.ndarray, "height width 3"] | None = None
    """The taught classes in color; None: there are none."""


@dataclass(frozen=True)
class PageContent:
    """Content of a run's page besides its record; sections without content are left out."""

    gallery: Sequence[GalleryEntry] = ()
    """Examples, shown worst score first."""
    legend: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """RGB color of each class or region in the gallery, by name."""
    cluster_names: Sequence[str] | None = None
    """The user's name of each cluster."""
    centroids: CentroidMap | None = None
    """Map of the centroids of its rounds."""
    held_out: bool = True
    """Whether the scored images are held out; False: they are the training images."""


def render_report(record: Mapping[str, Any], config_toml: str, content: PageContent) -> str:
    """Write the page of a run, finished or not; the same input gives the same bytes.

    Args:
        record: Content of `record.json`.
        config_toml: Complete configuration of the run.
        content: Pictures, names and centroids.

    Returns:
        HTML without references to the network or to other files.
    """
    final, centroids = record["final"], content.centroids
    names = [] if final is None else _cluster_names(record, content.cluster_names)
    return render_page(
        "report.html.j2",
        ("page.js", "gallery.js", "centroids.js"),
        title=record["name"],
        version=record["versions"]["fusseg"],
        record=record,
        num_images=count_images(record),
        num_regions=numbers.num_regions(record),
        num_rounds=numbers.counted_rounds(record["rounds"]),
        round_names={entry["round"]: numbers.round_name(entry) for entry in record["rounds"]},
        choice=describe_choice(record),
        taught=record.get("taught"),
        judged=numbers.judged_models(record),
        last_name=name_last(record),
        more_than=MORE_THAN,
        most_lost=MOST_LOST,
        trained_name=numbers.name_trained(record),
        config_toml=config_toml,
        held_out=content.held_out,
        scored=name_scored([content.held_out]),
        scores=numbers.latest_scores(record),
        site_iou=numbers.site_spread(record, "mean_iou"),
        site_accuracy=numbers.site_spread(record, "pixel_accuracy"),
        model_iou=numbers.model_spread(record, "mean_iou"),
        sites=[] if final is None else _worst_first(final["sites"]),
        totals=numbers.traffic_by_client(record["rounds"]),
        incidents=numbers.incidents(record["rounds"]),
        series=figures.client_series(record["rounds"]),
        # With secure sums no client's loss is known.
        shows_losses=any(one["loss"] is not None for one in _client_rounds(record)),
        figures={name: Markup(svg) for name, svg in _draw_figures(record, names).items()},
        confusion=_confusion(record, names),
        named=_score_named(record, content.cluster_names),
        cards=_gallery_cards(content.gallery),
        num_shown=_num_scored(record),
        legend=content.legend,
        marks=[_mark(number) for number in range(centroid_map.MAX_CLIENTS)],
        hides_only_heads=centroids is not None
        and any(one.clients for one in centroids.rounds.values()),
        centroids=centroids,
        centroids_json=None if centroids is None else _centroids_json(record, centroids),
        map_size=(centroid_map.WIDTH, centroid_map.HEIGHT),
        first_round=0 if centroids is None else _last_shared(centroids),
        num_senders=len({name for entry in record["rounds"] for name in _senders(entry)}),
    )


def _client_rounds(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (client for entry in record["rounds"] for client in entry["clients"])


def _centroids_json(record: Mapping[str, Any], centroids: CentroidMap) -> str:
    choice = next((one["round"] for one in record["rounds"] if numbers.is_choice(one)), None)
    return json.dumps(centroid_map.as_json(centroids, choice))


def _mark(number: int) -> dict[str, str]:
    shape, color = series_mark(number)
    return {"path": SHAPES[shape], "role": f"series-{color + 1}"}


def _last_shared(centroids: CentroidMap) -> int:
    """Find the last round in which clients sent centroids; a finish has none."""
    shared = [place for place, one in enumerate(centroids.rounds.values()) if one.clients]
    return shared[-1] if shared else len(centroids.rounds) - 1


def _senders(entry: Mapping[str, Any]) -> list[str]:
    return [client["client_id"] for client in entry["clients"]]


def _num_scored(record: Mapping[str, Any]) -> int:
    final = record["final"]
    return 0 if final is None else sum(site["num_images"] for site in final["sites"].values())


def _worst_first(sites: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Order sites by mIoU, or by name if nothing is labeled."""
    return sorted(sites.items(), key=lambda item: (item[1]["mean_iou"] or 0.0, item[0]))


def _draw_figures(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Draw the figures that the record has numbers for."""
    drawn = {}
    rounds, final = record["rounds"], record["final"]
    if any(entry["mean_iou"] is not None for entry in rounds):
        start_kept = keeps_start(record.get("candidates") or ())
        drawn["mean_iou"] = figures.mean_iou_curve(rounds, start_kept=start_kept)
    trained = [entry for entry in rounds if entry["loss"] is not None]
    if trained:
        drawn["loss"] = figures.loss_curves(trained)
    if any(entry["bytes_up"] or entry["bytes_down"] for entry in rounds):
        drawn["traffic"] = figures.traffic_bars(rounds)
    if final is None:
        return drawn
    if final["per_class_iou"]:
        drawn["classes"] = figures.class_bars(final["per_class_iou"])
    if final["quality"] is not None:
        drawn["clusters"] = figures.cluster_bars(final["quality"]["cluster_share"], names)
    return drawn


def _cluster_names(record: Mapping[str, Any], given: Sequence[str] | None) -> list[str]:
    final = record["final"]
    if final["matching"] is None:
        return numbers.cluster_names(numbers.num_regions(record), given)
    return numbers.cluster_names(
        numbers.num_regions(record), given, final["matching"], numbers.class_names(final)
    )


def _score_named(
    record: Mapping[str, Any], given: Sequence[str] | None
) -> Mapping[str, Any] | None:
    final = record["final"]
    # If every client has its own model, the confusion is that of only one of them.
    if given is None or final is None or final["confusion"] is None or final["models"]:
        return None
    return score_named(final["confusion"], given, numbers.class_names(final))


def _confusion(record: Mapping[str, Any], names: Sequence[str]) -> Sequence[Any]:
    final = record["final"]
    if final is None or final["confusion"] is None or final["matching"] is None:
        return []
    return confusion_rows(final["confusion"], final["matching"], numbers.class_names(final), names)


def _gallery_cards(gallery: Sequence[GalleryEntry]) -> list[dict[str, Any]]:
    """Embed the examples, worst score first; those without a score come last."""
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
            "label": entry.label is not None,
            "layers": _layers(entry),
        }
        for entry in ordered
    ]


def _layers(entry: GalleryEntry) -> dict[str, str]:
    layers = {"Image": photo_uri(entry.image), "Regions": regions_uri(entry.regions)}
    if entry.classes is not None:
        layers["Classes"] = regions_uri(entry.classes)
    if entry.label is not None:
        layers["Label"] = regions_uri(entry.label)
    return layers
