"""What a run's record.json says, put together from what was measured."""

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from fusseg.config.compute import choose_compute, processor_name
from fusseg.config.file import flatten, to_table
from fusseg.config.schema import Config
from fusseg.core.portable_paths import without_folders, without_folders_in
from fusseg.core.version import VERSION
from fusseg.data.items import Classes
from fusseg.evaluation.held_out import Evaluation, LabeledScores
from fusseg.evaluation.scores import Scores
from fusseg.features.backbones import Backbone
from fusseg.features.pipeline import Skipped
from fusseg.federation.lloyd_steps import FINISH
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import Round
from fusseg.federation.state import Hello
from fusseg.federation.traffic import NUMBER_BYTES, num_bytes
from fusseg.runs.directory import CONFIG, FORMAT_VERSION, Record
from fusseg.segmentation.training import TrainingPlan

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


@dataclass(frozen=True)
class RoundLog:
    """What happened while the clients of a round were asked."""

    traffic: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """`bytes_down` and `bytes_up` of each client; empty where nothing would cross a network."""
    incidents: Sequence[Incident] = ()


_MAY_CHANGE = (
    "compute.",
    "data.root",
    "backbone.name",
    "backbone.batch_size",
    "federation.rounds",
    "federation.lloyd_rounds",
    "federation.min_sites",
    "federation.round_timeout",
    "federation.wait_timeout",
    "evaluation.every",
)
"""Settings that a resumed run may have otherwise: they decide how long it takes, or are checked by
what they name (fingerprint, precision, images)."""


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
        "command": describe_command("run"),
        "versions": versions(),
        "backbone": {
            "name": without_folders(backbone.name),
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
        "settings": describe_settings(config),
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
        "stored_values": [],
    }


def describe_command(name: str, *options: str) -> str:
    """Spell out the command that repeats a run, to be pasted into a shell in its directory.

    Args:
        name: Of the command.
        options: What it needs beside the configuration, as words that are not quoted yet.
    """
    return shlex.join(["fusseg", name, CONFIG, *options])


def describe_protocol(config: Config) -> dict[str, Any]:
    """Say what makes scores comparable, besides the number of clusters and the backbone."""
    evaluation, data = config.evaluation, config.data
    return {
        "image_size": list(evaluation.image_size or data.image_size),
        "whole": evaluation.whole,
        "fit": data.fit,
        "image_interpolation": data.interpolation,
        "white_level": data.white_level,
        # As in records of runs that had no choice.
        "alpha_channel": None if data.alpha_channel == "blend" else data.alpha_channel,
        "label_interpolation": "nearest",
        "flip": evaluation.flip,
        "crf": evaluation.crf,
    }


def describe_settings(config: Config) -> dict[str, Any]:
    """List the settings that decide results, by dotted key: a run is resumed under no others."""
    flat = flatten(without_folders_in(to_table(config)))
    # As they are read back from JSON.
    kept = {name: value for name, value in sorted(flat.items()) if not name.startswith(_MAY_CHANGE)}
    return dict(json.loads(json.dumps(kept)))


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
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
    }


def describe_hello(
    hellos: Sequence[Hello],
    plan: TrainingPlan,
    refused: Mapping[str, str] | None = None,
    *,
    sent: bool,
) -> dict[str, Any]:
    """Say what was agreed on before round 1, and what that took.

    Args:
        hellos: One per client.
        plan: What follows from them.
        refused: Why sites of a deployment that said hello are no part of it, by site.
        sent: Whether they cross a network in deployment; not in a centralized run.
    """
    # Two counts, spread and estimates beside the sum; fingerprint and version as text.
    up = [
        num_bytes(hello.feature_sum)
        + NUMBER_BYTES * (3 + len(hello.numbers))
        + len(hello.fingerprint)
        + len(hello.version)
        for hello in hellos
    ]
    return {
        "local_steps": plan.num_steps,
        "agreed": dict(plan.agreed),
        "bytes_up": sum(up) if sent else 0,
        # What was agreed on comes with the first task, and is counted there.
        "bytes_down": 0,
        "refused": [
            {"client_id": site, "reason": reason}
            for site, reason in sorted((refused or {}).items())
        ],
    }


def describe_round(
    finished: Round,
    scores: Mapping[str, Any],
    seconds: float,
    protocol: Protocol,
    log: RoundLog,
) -> dict[str, Any]:
    """Describe one round: loss, what was sent by whom, scores where they were taken.

    Args:
        finished: The round.
        scores: `mean_iou` and `pixel_accuracy`; empty where none were taken.
        seconds: Wall time of training.
        protocol: How many rounds train.
        log: What was sent, and who was asked and is not in this round.
    """
    number = finished.state.round_number
    weighed = [
        (update.num_images, update.loss) for update in finished.updates if update.loss is not None
    ]
    total = sum(images for images, _ in weighed)
    return {
        "round": number,
        "phase": "training" if number <= protocol.rounds else FINISH,
        "loss": sum(images * loss for images, loss in weighed) / total if weighed else None,
        "mean_iou": scores.get("mean_iou"),
        "pixel_accuracy": scores.get("pixel_accuracy"),
        "bytes_up": sum(traffic["bytes_up"] for traffic in log.traffic.values()),
        "bytes_down": sum(traffic["bytes_down"] for traffic in log.traffic.values()),
        "seconds": seconds,
        "clients": _describe_clients(finished, log),
        "incidents": [asdict(incident) for incident in log.incidents],
    }


def _describe_clients(finished: Round, log: RoundLog) -> list[dict[str, Any]]:
    """Describe each client's part, over all exchanges of the round."""
    clients: dict[str, dict[str, Any]] = {}
    for exchange in finished.exchanges:
        for update in exchange.updates:
            traffic = log.traffic.get(update.client_id, {"bytes_up": 0, "bytes_down": 0})
            client = clients.setdefault(
                update.client_id,
                {
                    "client_id": update.client_id,
                    "num_images": update.num_images,
                    "loss": None,
                    **traffic,
                },
            )
            client["loss"] = update.loss if client["loss"] is None else client["loss"]
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
        scores = ("mean_iou", "mean_iou_stego", "pixel_accuracy")
        nulls = (*scores, "per_class_iou", "confusion", "matching")
        return {**dict.fromkeys(nulls), "sites": {}, "models": []}
    first = next(iter(found.values()))
    overall = [scores.overall for scores in found.values()]
    return {
        **_mean_scores(overall),
        "mean_iou_stego": fmean(one.mean_iou_stego for one in overall),
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
    """Name each skipped image and the reason, without the folder that it lies in."""
    return [
        {
            "site": entry.item.site,
            "image": entry.item.stem,
            "reason": without_folders(_name_only(entry.reason, entry.item.image)),
        }
        for entry in skipped
    ]


def _name_only(reason: str, image: object) -> str:
    return reason.replace(str(image), image.name) if isinstance(image, Path) else reason


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
