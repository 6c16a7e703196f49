"""Packing a run as a model file, and choosing what of the run goes into it."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from fusseg.config.schema import DataConfig, seen_alike
from fusseg.core.errors import DataError
from fusseg.export.artifact import Artifact, BackboneKind, BackboneNeed
from fusseg.features.backbones import Backbone
from fusseg.features.backbones.efficientnet import EFFICIENTNET
from fusseg.federation.strategies import resolve
from fusseg.runs.choice import describe_choice
from fusseg.runs.directory import load_record
from fusseg.runs.finished_rounds import check_same_round
from fusseg.runs.load import TrainedRun, pick_segmenter
from fusseg.runs.model_scores import GLOBAL
from fusseg.runs.record import count_images
from fusseg.runs.record_form import ModelScores, OwnModelScores, Record
from fusseg.runs.regions import NamedCluster, load_regions


def pack_run(
    run: TrainedRun,
    run_dir: Path,
    site: str | None = None,
    *,
    with_sites: bool = False,
    regions: bool = False,
) -> Artifact:
    """Pack a run as the content of a model file, without images, paths and commands.

    Args:
        run: A trained run.
        run_dir: Its directory.
        site: Site whose model is packed, if each site has its own.
        with_sites: Whether to include the names of the training sites and their numbers of images.
        regions: Whether to leave out the classes that the run was taught.

    Raises:
        ConfigError: As for `pick_segmenter`.
        DataError: If the record cannot be read, or is of another round than the model.
    """
    segmenter, record = pick_segmenter(run, site), load_record(run_dir)
    check_same_round(run_dir, record, run.rounds_done)
    return Artifact(
        segmenter=segmenter,
        backbone=need_of(run.backbone),
        data=seen_alike(DataConfig(), run.config.data),
        clusters=_clusters(run_dir, segmenter.num_regions, site),
        training=_training(run, record, site, with_sites=with_sites),
        classes=None if regions else run.classes,
    )


def need_of(backbone: Backbone) -> BackboneNeed:
    """Describe a backbone without paths of this machine.

    Raises:
        DataError: If the ONNX file cannot be read.
    """
    kind = _kind(backbone.name)
    path = Path(backbone.name.removeprefix("onnx:"))
    digest = None
    if kind == "onnx":
        try:
            digest = sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
    return BackboneNeed(
        kind=kind,
        name=path.resolve().name if kind in ("onnx", "folder") else backbone.name,
        fingerprint=backbone.fingerprint,
        feature_dim=backbone.feature_dim,
        stride=backbone.stride,
        file_sha256=digest,
        grid=backbone.grid,
    )


def _kind(name: str) -> BackboneKind:
    if name == "filterbank":
        return "filterbank"
    if name == EFFICIENTNET:
        return "package"
    if name.startswith("onnx:"):
        return "onnx"
    return "folder" if Path(name).is_dir() else "hub"


def _clusters(run_dir: Path, num_regions: int, site: str | None) -> tuple[NamedCluster, ...] | None:
    regions = load_regions(run_dir, num_regions, site)
    if regions is None:
        return None
    named = (
        NamedCluster(cluster, region.name, region.color)
        for region in regions.regions
        for cluster in region.clusters
    )
    return tuple(sorted(named, key=lambda entry: entry.cluster))


def _training(
    run: TrainedRun, record: Record, site: str | None, *, with_sites: bool
) -> dict[str, Any]:
    """Summarize the record without names of classes and files, and of sites unless asked for."""
    clients, planned = record["clients"], resolve(run.config).counted_rounds
    summary = {
        "strategy": record["strategy"],
        "seed": record["seed"],
        # Without the choice, which is no round of training.
        "rounds": min(run.rounds_done, planned),
        "rounds_planned": planned,
        "local_steps": None if record["hello"] is None else record["hello"]["local_steps"],
        "num_clients": len(clients),
        "num_images": count_images(record),
        "own_model_of_one_client": site is not None,
        "engine": record["engine"],
        "adapted": record.get("adapted") is not None,
        "versions": {
            "fusseg": record["versions"].get("fusseg"),
            "torch": record["versions"].get("torch"),
        },
        "protocol": record["protocol"],
        "stored_values": list(run.stored_values),
        **_scores(record, site),
    }
    choice = describe_choice(record)
    if choice is not None:
        summary["choice"] = choice
    taught = record.get("taught")
    if taught is not None and run.classes is not None:
        summary["labeled_images"] = taught["num_labeled_images"]
        summary["mean_iou_by_class"] = taught["mean_iou"]
    if with_sites:
        summary["sites"] = [
            {"name": client["client_id"], "num_images": client["num_images"]} for client in clients
        ]
        summary["site"] = site
    return summary


def _scores(record: Record, site: str | None) -> dict[str, Any]:
    """List the packed model's scores on the held-out images; None if there are no labels."""
    final = record["final"]
    if final is None:
        return {"mean_iou": None, "pixel_accuracy": None, "scored_images": None}
    scored: ModelScores | OwnModelScores | None = final
    if (site or GLOBAL) != GLOBAL:
        scored = next((one for one in final["models"] if one["client_id"] == site), None)
    return {
        "mean_iou": None if scored is None else scored["mean_iou"],
        "pixel_accuracy": None if scored is None else scored["pixel_accuracy"],
        "scored_images": sum(one["num_images"] for one in final["sites"].values()) or None,
    }
