"""Adapting a trained run to new images: the head stays, mean feature and centroids move."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fusseg.config.schema import Config, seen_alike
from fusseg.core.errors import DataError
from fusseg.core.portable_paths import without_folders
from fusseg.data.checks.survey import find_layout
from fusseg.data.findings import Finding
from fusseg.data.stored import sum_up
from fusseg.evaluation.held_out import Evaluation, HeldOut, evaluate
from fusseg.evaluation.scores import Scores, score
from fusseg.features.extraction import Progress
from fusseg.federation.lloyd_steps import Adaptation, move_to_codes
from fusseg.federation.points import sample_positions, unit_codes
from fusseg.federation.state import Client
from fusseg.runs.directory import check_new_run, create_run, read_run_config, save_record
from fusseg.runs.model_scores import GLOBAL, describe_evaluations
from fusseg.runs.prepare import Prepared, extract, look_up
from fusseg.runs.record import describe_skipped, new_record
from fusseg.runs.record_form import AdaptedEntry, ModelScores, Record, RegionMove
from fusseg.runs.saved_state import SavedState, save_state
from fusseg.runs.warm_start import carry_names, check_suits, describe_origin, load_shared_model
from fusseg.segmentation.assignment import Segmenter, build_segmenter
from fusseg.segmentation.head import HeadWeights
from fusseg.segmentation.objective import Model, group_clusters
from fusseg.segmentation.training import TrainingPlan

_STATES = ("held", "moved", "kept", "unmoved")
"""State of a region: the first of these that one of its centroids has."""


@dataclass(frozen=True)
class AdaptedRun:
    """A run before and after its adaptation, on the new images."""

    record: Record
    """Record of the adapted run."""
    adapted: AdaptedEntry
    """What was done, as in the record."""
    final: ModelScores
    """Scores after, as in the record."""
    shown: HeldOut
    """The new images."""
    segmenters: dict[str, Segmenter]
    """The old model under `Before`, the new one under `After`."""


def adapt_run(
    run_dir: Path, folder: Path, out: Path, adaptation: Adaptation, cache: Path, command: str
) -> Generator[Progress | Finding, None, AdaptedRun]:
    """Move a run's centroids to the codes of new images, and save the result as a new run.

    Args:
        run_dir: A run with one model for all sites; it is not changed.
        folder: A folder of images, or of one folder per site.
        out: New run directory.
        adaptation: How far centroids may move.
        cache: Folder of the feature cache.
        command: Command that repeats the adaptation, for the record.

    Yields:
        Findings about the images, and progress of the extraction.

    Raises:
        FussegError: If the run, the images or the new run directory cannot be used.
    """
    saved, parent = load_shared_model(run_dir), read_run_config(run_dir)
    config = adapted_config(parent, run_dir, folder)
    # Before the extraction, which may take hours.
    check_new_run(out)
    lookup = look_up(config)
    check_suits(saved, config, lookup.backbone.fingerprint, run_dir)
    prepared = yield from extract(lookup, config, cache)
    create_run(out, config)
    old = saved.state
    plan = recenter(old.plan, prepared.clients)
    codes = _codes(prepared.clients, old.model.head, plan, config)
    # Each cluster keeps its region.
    centroids, moved = move_to_codes(old.model.centroids, codes, adaptation)
    model = replace(old.model, centroids=centroids)
    # The head stays, so no optimizer goes on; what was judged was another model, and classes were
    # taught with the old mean feature.
    state = replace(
        old, model=model, plan=plan, candidates=(), kept=None, optimizer={}, taught=None
    )
    segmenters = {
        name: build_segmenter(one.model, one.plan.mean_feature)
        for name, one in (("Before", old), ("After", state))
    }
    evaluations = {name: evaluate(one, prepared.shown) for name, one in segmenters.items()}
    record = _start_record(out, config, prepared, command)
    record["start"] = describe_origin(run_dir, saved)
    # Nothing was exchanged: steps and agreed numbers are those of the old run.
    record["hello"] = {
        "local_steps": plan.num_steps,
        "agreed": dict(plan.agreed),
        "bytes_up": 0,
        "bytes_down": 0,
        "refused": [],
    }
    scores = {
        name: describe_evaluations({GLOBAL: one}, prepared.shown.classes)
        for name, one in evaluations.items()
    }
    kept = _names_kept(evaluations)
    adapted: AdaptedEntry = {
        "steps": moved.steps,
        "min_cosine": adaptation.min_cosine,
        "before": scores["Before"],
        "names_kept_mean_iou": None if kept is None else kept.mean_iou,
        "regions": _describe_moves(old.model, state.model, evaluations, moved.states),
    }
    record["final"], record["adapted"] = scores["After"], adapted
    record["num_regions"] = state.model.num_regions
    digests = {client.client_id: client.features.digest for client in prepared.clients}
    carry_names(run_dir, out)
    save_record(out, record)
    save_state(out, SavedState(state, {}, saved.fingerprint, digests))
    return AdaptedRun(record, adapted, scores["After"], prepared.shown, segmenters)


def _start_record(out: Path, config: Config, prepared: Prepared, command: str) -> Record:
    images = {client.client_id: len(client.features) for client in prepared.clients}
    record = new_record(out, config, prepared.backbone, images, prepared.center)
    record["command"] = without_folders(command)
    record["skipped_images"] = describe_skipped(prepared.skipped)
    record["stored_values"] = sum_up(prepared.stored)
    record["seconds"]["extract"] = prepared.seconds
    return record


def adapted_config(parent: Config, run_dir: Path, folder: Path) -> Config:
    """Make the configuration of an adapted run: that of the old run, with the new images.

    With `fusseg run` it trains a federation on the new images, starting from the old model.

    Raises:
        DataError: If the folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        what = "it is a file; give the folder that holds it" if folder.is_file() else "correct it"
        raise DataError(f"no such folder of images: {folder}; {what}")
    data = seen_alike(find_layout(folder), parent.data)
    return replace(
        parent,
        data=data,
        model=replace(parent.model, start=str(run_dir), whitening=0.0),
        evaluation=replace(parent.evaluation, at_sites=True),
    )


def recenter(plan: TrainingPlan, clients: Sequence[Client]) -> TrainingPlan:
    """Replace the mean feature by that of the clients' images, from sums and counts alone.

    A run that was not centered stays so.
    """
    if not bool(plan.mean_feature.any()):
        return plan
    total = torch.stack([client.features.feature_sum() for client in clients]).sum(dim=0)
    count = sum(client.features.feature_count for client in clients)
    return replace(plan, mean_feature=(total / count).float())


def _codes(
    clients: Sequence[Client], head: HeadWeights, plan: TrainingPlan, config: Config
) -> list[list[Float[Tensor, "_ code"]]]:
    """Compute the codes of each client's sampled positions, once: the head does not change."""
    per_image = config.federation.positions_per_image
    return [
        list(
            unit_codes(
                head,
                client.features,
                sample_positions(client.features, per_image, config.seed),
                plan.mean_feature,
            )
        )
        for client in clients
    ]


def _describe_moves(
    old: Model, new: Model, evaluations: dict[str, Evaluation], states: Sequence[str]
) -> list[RegionMove]:
    """Describe how each region moved: its centroid, or the farthest of its centroids."""
    turned = (
        normalize(old.centroids.double(), dim=1) * normalize(new.centroids.double(), dim=1)
    ).sum(dim=1)
    cosines = turned.tolist()
    shares = [evaluations[name].quality.cluster_share.tolist() for name in ("Before", "After")]
    clusters_of = group_clusters(new.centroids, new.region_of)
    return [
        {
            "cosine": min(cosines[cluster] for cluster in clusters),
            "share_before": before,
            "share_after": after,
            "state": min((states[cluster] for cluster in clusters), key=_STATES.index),
        }
        for clusters, before, after in zip(map(Tensor.tolist, clusters_of), *shares, strict=True)
    ]


def _names_kept(evaluations: dict[str, Evaluation]) -> Scores | None:
    """Score the new regions under the old matching: do the regions keep their meaning?"""
    before, after = evaluations["Before"].scores, evaluations["After"].scores
    if before is None or after is None:
        return None
    return score(after.confusion, before.overall.matching)
