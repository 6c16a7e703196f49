"""The entries of `record.json`: what is known before round 1, and what each round adds."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fusseg.config.compute import choose_compute, processor_name
from fusseg.config.file import flatten, to_table
from fusseg.config.schema import Config
from fusseg.core.portable_paths import without_folders, without_folders_in
from fusseg.core.version import VERSION
from fusseg.features.backbones import Backbone
from fusseg.features.pipeline import Skipped
from fusseg.federation.judge import CHOICE
from fusseg.federation.lloyd_steps import FINISH
from fusseg.federation.pca_start import START
from fusseg.federation.protocol import Protocol
from fusseg.federation.rounds import Round
from fusseg.federation.state import Candidate, Hello, HelloTotal
from fusseg.federation.teaching import TEACH
from fusseg.federation.traffic import NUMBER_BYTES, num_bytes
from fusseg.runs.directory import CONFIG, FORMAT_VERSION
from fusseg.runs.record_form import (
    CandidateEntry,
    ClientRound,
    ComputeEntry,
    HelloEntry,
    ModelScores,
    ProtocolEntry,
    Record,
    RoundEntry,
    SkippedImage,
    Versions,
)
from fusseg.segmentation.training import TrainingPlan

SIMULATION, DEPLOYMENT = "simulation", "flower"
"""How the clients are reached, as the record says."""


@dataclass(frozen=True)
class Incident:
    """A site of a deployment that did not answer as it should, and is left out."""

    client_id: str
    task: str
    """What it was asked to do."""
    reason: str
    """No answer, or what was wrong with the answer."""


@dataclass(frozen=True)
class RoundLog:
    """What happened while the clients of a round were asked."""

    traffic: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """`bytes_down` and `bytes_up` of each client; empty if nothing would cross a network."""
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
"""Settings that may differ when a run is resumed. They decide only how long it takes, or what they
name is compared instead: fingerprint, precision, images."""


def new_record(
    run_dir: Path,
    config: Config,
    backbone: Backbone,
    num_images: Mapping[str, int | None],
    center: bool,
    engine: str = SIMULATION,
) -> Record:
    """Create a record with all that is known before round 1.

    Args:
        run_dir: Run directory.
        config: The run's configuration.
        backbone: The server's backbone.
        num_images: Usable training images by client, sorted; None: only their sum is known.
        center: Whether the mean feature is subtracted before any cosine.
        engine: How the clients are reached: `SIMULATION` or `DEPLOYMENT`.
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
            "origin": backbone.origin,
        },
        "compute": describe_compute(config),
        "engine": engine,
        "strategy": config.federation.strategy,
        "num_clusters": config.model.num_clusters,
        "num_regions": config.model.num_clusters,
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
        "taught": None,
        "seconds": {"extract": 0.0, "train": 0.0, "evaluate": 0.0},
        "skipped_images": [],
        "stored_values": [],
    }


def count_images(record: Mapping[str, Any]) -> int:
    """Count the training images of all clients; with secure sums, only their sum is known."""
    counts = [client["num_images"] for client in record["clients"]]
    total: int = record["num_images"] if None in counts else sum(counts)
    return total


def describe_command(name: str, *options: str) -> str:
    """Write the command that repeats a run, to be run in a shell in its directory.

    Args:
        name: Name of the command.
        options: Further words of the command line, not quoted yet.
    """
    return shlex.join(["fusseg", name, CONFIG, *options])


def describe_protocol(config: Config) -> ProtocolEntry:
    """Describe how images are seen and scored: scores compare only where this is equal."""
    evaluation, data = config.evaluation, config.data
    return {
        "image_size": list(evaluation.image_size or data.image_size),
        "whole": evaluation.whole,
        "fit": data.fit,
        "image_interpolation": data.interpolation,
        "white_level": data.white_level,
        # Null as in older records, from before there was a choice.
        "alpha_channel": None if data.alpha_channel == "blend" else data.alpha_channel,
        "label_interpolation": "nearest",
        "flip": evaluation.flip,
        "crf": evaluation.crf,
    }


def describe_settings(config: Config) -> dict[str, Any]:
    """List the settings that decide results, by dotted key; a resumed run must have the same."""
    flat = flatten(without_folders_in(to_table(config)))
    # As they are when read back from JSON: lists, not tuples.
    kept = {name: value for name, value in sorted(flat.items()) if not name.startswith(_MAY_CHANGE)}
    return dict(json.loads(json.dumps(kept)))


def describe_compute(config: Config) -> ComputeEntry:
    """Name device and precision of this machine: what `auto` stands for here."""
    compute = choose_compute(config.compute)
    return {"device": compute.device.type, "precision": compute.precision_name}


def versions() -> Versions:
    """List the software and hardware that results may depend on."""
    return {
        "fusseg": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "pillow": metadata.version("pillow"),
        "onnxruntime": metadata.version("onnxruntime"),
        "transformers": metadata.version("transformers"),
        "safetensors": metadata.version("safetensors"),
        "platform": f"{sys.platform} {platform.machine()}",
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
    }


def describe_hello(
    said: Sequence[Hello] | HelloTotal,
    plan: TrainingPlan,
    refused: Mapping[str, str] | None = None,
    *,
    sent: bool,
) -> HelloEntry:
    """Describe what the clients agreed on before round 1, and how many bytes that took.

    Args:
        said: The hello of each client, or their sum.
        plan: What the clients agreed on.
        refused: Sites of a deployment that were refused, with the reason.
        sent: Whether hellos would cross a network; not in a centralized run.
    """
    up = _bytes_of_sums(said) if isinstance(said, HelloTotal) else sum(map(_bytes_of, said))
    return {
        "local_steps": plan.num_steps,
        "agreed": dict(plan.agreed),
        "bytes_up": up if sent else 0,
        # The plan is sent with the first task and counted there.
        "bytes_down": 0,
        "refused": [
            {"client_id": site, "reason": reason}
            for site, reason in sorted((refused or {}).items())
        ],
    }


def _bytes_of(hello: Hello) -> int:
    # The sum, two counts, the spread and the estimates; fingerprint and version as text.
    numbers = NUMBER_BYTES * (3 + len(hello.numbers))
    texts = len(hello.fingerprint) + len(hello.version) + sum(map(len, hello.classes))
    return num_bytes(hello.feature_sum) + numbers + texts


def _bytes_of_sums(total: HelloTotal) -> int:
    # Each client's term: the sum, two counts and the estimates, 8 bytes each.
    term = NUMBER_BYTES * (len(total.feature_sum) + 2 + len(total.numbers))
    return sum(term + sum(map(len, names)) for names in total.classes_of.values())


def describe_round(
    finished: Round,
    scores: ModelScores | None,
    seconds: float,
    protocol: Protocol,
    log: RoundLog,
) -> RoundEntry:
    """Describe one round: loss, bytes by client, and scores.

    Args:
        finished: The round.
        scores: Scores after it; None: it was not scored.
        seconds: Wall time of training.
        protocol: Number of training rounds.
        log: Bytes that were sent, and sites that were asked and are not in this round.
    """
    number = finished.state.round_number
    entry: RoundEntry = {
        "round": number,
        "phase": _phase(number, protocol),
        "loss": _mean_loss(finished),
        "mean_iou": None if scores is None else scores["mean_iou"],
        "pixel_accuracy": None if scores is None else scores["pixel_accuracy"],
        "bytes_up": sum(traffic["bytes_up"] for traffic in log.traffic.values()),
        "bytes_down": sum(traffic["bytes_down"] for traffic in log.traffic.values()),
        "seconds": seconds,
        "clients": _describe_clients(finished, log),
        "incidents": [
            {"client_id": one.client_id, "task": one.task, "reason": one.reason}
            for one in log.incidents
        ],
    }
    if finished.total is not None:
        entry["num_images"] = finished.total.num_images
    return entry


def _mean_loss(finished: Round) -> float | None:
    """Average the loss of the clients over their images."""
    if finished.total is not None:
        return finished.total.loss
    weighed = [
        (update.num_images, update.loss) for update in finished.updates if update.loss is not None
    ]
    total = sum(images for images, _ in weighed)
    return sum(images * loss for images, loss in weighed) / total if weighed else None


def _phase(round_number: int, protocol: Protocol) -> str:
    if round_number == 0:
        return START
    if protocol.is_choice(round_number):
        return CHOICE
    if protocol.is_teaching(round_number):
        return TEACH
    return "training" if round_number <= protocol.rounds else FINISH


def _describe_clients(finished: Round, log: RoundLog) -> list[ClientRound]:
    """Describe each client's part, over all exchanges of the round."""
    clients: dict[str, ClientRound] = {}
    for exchange in finished.exchanges:
        for update in exchange.updates:
            client = clients.setdefault(update.client_id, _describe_client(update.client_id, log))
            client["num_images"] = update.num_images
            client["loss"] = update.loss if client["loss"] is None else client["loss"]
        for client_id in () if exchange.total is None else exchange.total.client_ids:
            clients.setdefault(client_id, _describe_client(client_id, log))
    return list(clients.values())


def _describe_client(client_id: str, log: RoundLog) -> ClientRound:
    traffic = log.traffic.get(client_id, {"bytes_up": 0, "bytes_down": 0})
    return {
        "client_id": client_id,
        "num_images": None,
        "loss": None,
        "bytes_up": traffic["bytes_up"],
        "bytes_down": traffic["bytes_down"],
    }


def describe_candidates(candidates: Sequence[Candidate]) -> list[CandidateEntry]:
    """Describe the models that the clients judged."""
    return [
        {
            "name": one.name,
            "agreement": one.agreement,
            "margin": one.margin,
            "kept": one.kept,
        }
        for one in candidates
    ]


def describe_skipped(skipped: Sequence[Skipped]) -> list[SkippedImage]:
    """Name each skipped image and the reason, without the image's folder."""
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
