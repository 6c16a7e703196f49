"""What a run's record.json says, put together from what was measured."""

import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from fusseg.compute import choose_compute
from fusseg.config import Config, FederationConfig
from fusseg.data.items import Classes
from fusseg.evaluation.held_out import Evaluation, LabeledScores
from fusseg.evaluation.scores import Scores
from fusseg.features.backbones import Backbone
from fusseg.features.pipeline import Skipped
from fusseg.federation.rounds import Round
from fusseg.federation.schedule import num_training_rounds
from fusseg.federation.state import Hello, num_bytes
from fusseg.federation.traffic import NUMBER_BYTES, bytes_down, bytes_up
from fusseg.runs import CONFIG, FORMAT_VERSION, Record
from fusseg.segmentation.training import TrainingPlan
from fusseg.version import VERSION

GLOBAL = ""
"""Name of the one model where all is aggregated; no site can have it."""


SIMULATION, DEPLOYMENT = "simulation", "flower"
"""How the clients were reached."""


@dataclass(frozen=True)
class Incident:
    """A site of a deployment that was asked for something and is not part of what followed."""

    client_id: str
    task: str
    """What it was asked for."""
    reason: str
    """No answer, or what was wrong with it."""


def new_record(
    run_dir: Path,
    config: Config,
    backbone: Backbone,
    num_images: Mapping[str, int],
    center: bool,
    engine: str = SIMULATION,
) -> Record:
    """Begin a record: what is known before round 1.

    Args:
        run_dir: Run directory.
        config: The run's configuration.
        backbone: The server's backbone.
        num_images: Usable training images by client, sorted.
        center: Whether the mean feature is subtracted before any cosine.
        engine: How the clients are reached.
    """
    return {
        "format_version": FORMAT_VERSION,
        "name": run_dir.name,
        "seed": config.seed,
        "command": f"fusseg run {shlex.quote(str(run_dir / CONFIG))}",
        "versions": versions(),
        "backbone": {
            "name": backbone.name,
            "fingerprint": backbone.fingerprint,
            "feature_dim": backbone.feature_dim,
            "stride": backbone.stride,
            "centered": center,
        },
        "compute": describe_compute(config),
        "engine": engine,
        "strategy": config.federation.strategy,
        "num_clusters": config.model.num_clusters,
        "protocol": describe_protocol(config),
        "clients": [
            {"client_id": client_id, "num_images": count} for client_id, count in num_images.items()
        ],
        "start": None,
        "adapted": None,
        "hello": None,
        "rounds": [],
        "trained": None,
        "final": None,
        "seconds": {"extract": 0.0, "train": 0.0, "evaluate": 0.0},
        "skipped_images": [],
    }


def describe_protocol(config: Config) -> dict[str, Any]:
    """Say what makes scores comparable, besides the number of clusters and the backbone."""
    evaluation = config.evaluation
    return {
        "image_size": list(evaluation.image_size or config.data.image_size),
        "whole": evaluation.whole,
        "fit": config.data.fit,
        "image_interpolation": config.data.interpolation,
        "label_interpolation": "nearest",
        "flip": evaluation.flip,
        "crf": evaluation.crf,
    }


def describe_compute(config: Config) -> dict[str, str]:
    """Say with what this machine computes: what `auto` stands for here."""
    compute = choose_compute(config.compute)
    return {"device": compute.device.type, "precision": compute.precision_name}


def versions() -> dict[str, Any]:
    """Name everything that results may depend on besides the arguments."""
    packages = ("numpy", "pillow", "onnxruntime", "transformers", "safetensors")
    return {
        "fusseg": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: metadata.version(package) for package in packages},
        "platform": f"{sys.platform} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
    }


def describe_hello(hellos: Sequence[Hello], plan: TrainingPlan, *, sent: bool) -> dict[str, Any]:
    """Say what was agreed on before round 1, and what that took.

    Args:
        hellos: One per client.
        plan: What follows from them.
        sent: Whether they cross a network in deployment; not in a centralized run.
    """
    shifts = 0 if hellos[0].shift is None else len(hellos[0].shift)
    # Upwards: two counts and the shifts beside the sum; fingerprint and version as text.
    up = [
        num_bytes(hello.feature_sum)
        + NUMBER_BYTES * (2 + shifts)
        + len(hello.fingerprint)
        + len(hello.version)
        for hello in hellos
    ]
    down = num_bytes(plan.mean_feature) + NUMBER_BYTES * (1 + len(plan.shift))
    return {
        "local_steps": plan.num_steps,
        "shift": list(plan.shift),
        "bytes_up": sum(up) if sent else 0,
        "bytes_down": down * len(hellos) if sent else 0,
    }


def describe_round(
    finished: Round,
    scores: Mapping[str, Any],
    seconds: float,
    federation: FederationConfig,
    incidents: Sequence[Incident] = (),
    *,
    sent: bool,
) -> dict[str, Any]:
    """Describe one round: loss, what was sent by whom, scores where they were taken.

    Args:
        finished: The round.
        scores: `mean_iou` and `pixel_accuracy`; empty where none were taken.
        seconds: Wall time of training.
        federation: Which parts are shared, with baselines resolved.
        incidents: Sites of a deployment that were asked and are not in this round.
        sent: Whether updates cross a network in deployment; not in a centralized run.
    """
    number = finished.state.round_number
    clients = _describe_clients(finished, federation, sent=sent)
    weighed = [
        (update.num_images, update.loss) for update in finished.updates if update.loss is not None
    ]
    total = sum(images for images, _ in weighed)
    return {
        "round": number,
        "phase": "training" if number <= num_training_rounds(federation) else "lloyd",
        "loss": sum(images * loss for images, loss in weighed) / total if weighed else None,
        "mean_iou": scores.get("mean_iou"),
        "pixel_accuracy": scores.get("pixel_accuracy"),
        "bytes_up": sum(client["bytes_up"] for client in clients),
        "bytes_down": sum(client["bytes_down"] for client in clients),
        "seconds": seconds,
        "clients": clients,
        "incidents": [asdict(incident) for incident in incidents],
    }


def _describe_clients(
    finished: Round, federation: FederationConfig, *, sent: bool
) -> list[dict[str, Any]]:
    """Describe each client's part, over all exchanges of the round."""
    clients: dict[str, dict[str, Any]] = {}
    for place, exchange in enumerate(finished.exchanges):
        down = bytes_down(finished, place, federation)
        for update in exchange.updates:
            client = clients.setdefault(
                update.client_id,
                {
                    "client_id": update.client_id,
                    "num_images": update.num_images,
                    "loss": None,
                    "bytes_up": 0,
                    "bytes_down": 0,
                },
            )
            client["loss"] = update.loss if client["loss"] is None else client["loss"]
            client["bytes_up"] += bytes_up(update, federation) if sent else 0
            client["bytes_down"] += down if sent else 0
    return list(clients.values())


def describe_evaluations(
    evaluations: Mapping[str, Evaluation], classes: Classes | None
) -> dict[str, Any]:
    """Describe the scores of one model, or of the clients' own models and their mean.

    Args:
        evaluations: By model: one called `GLOBAL`, or one per client.
        classes: Names of the classes; None where nothing is labeled.

    Returns:
        Scores, all None where nothing is labeled, and the label-free figures. Confusion, matching
        and cluster shares are of the first model.
    """
    qualities = [evaluation.quality for evaluation in evaluations.values()]
    found = {name: one.scores for name, one in evaluations.items() if one.scores is not None}
    return {
        **_describe_scores(found, classes),
        "quality": {
            "cluster_share": qualities[0].cluster_share.tolist(),
            "mean_cosine": fmean(quality.mean_cosine for quality in qualities),
            "mean_margin": fmean(quality.mean_margin for quality in qualities),
        },
    }


def describe_site_scores(scores: LabeledScores | None, classes: Classes | None) -> dict[str, Any]:
    """Describe scores without label-free figures: nobody but the sites saw their images.

    Args:
        scores: Of the one global model; None where nothing is labeled.
        classes: Names of the classes.
    """
    found = {} if scores is None else {GLOBAL: scores}
    return {**_describe_scores(found, classes), "quality": None}


def _describe_scores(found: Mapping[str, LabeledScores], classes: Classes | None) -> dict[str, Any]:
    if not found or classes is None:
        nulls = ("mean_iou", "pixel_accuracy", "per_class_iou", "confusion", "matching")
        return {**dict.fromkeys(nulls), "sites": {}, "models": []}
    first = next(iter(found.values()))
    overall = [scores.overall for scores in found.values()]
    return {
        **_mean_scores(overall),
        "per_class_iou": _per_class_iou(overall, classes),
        "confusion": first.confusion.tolist(),
        "matching": first.overall.matching.tolist(),
        "sites": {
            site: {
                **_mean_scores([scores.site_scores[site] for scores in found.values()]),
                "num_images": first.num_images[site],
            }
            for site in first.site_scores
        },
        "models": [
            {"client_id": name, **_mean_scores([scores.overall])}
            for name, scores in found.items()
            if name != GLOBAL
        ],
    }


def describe_skipped(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    """Name each skipped image and the reason."""
    return [
        {"site": entry.item.site, "image": entry.item.stem, "reason": entry.reason}
        for entry in skipped
    ]


def _mean_scores(scores: Sequence[Scores]) -> dict[str, float]:
    return {
        "mean_iou": fmean(one.mean_iou for one in scores),
        "pixel_accuracy": fmean(one.pixel_accuracy for one in scores),
    }


def _per_class_iou(scores: Sequence[Scores], classes: Classes) -> dict[str, float | None]:
    means = torch.stack([one.class_iou for one in scores]).mean(dim=0).tolist()
    return {
        name: None if math.isnan(iou) else iou
        for name, iou in zip(classes.names, means, strict=True)
    }
