"""The models of a run that are scored, and their scores as the record describes them."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from fusseg.data.items import Classes
from fusseg.evaluation.held_out import Evaluation, HeldOut, LabeledScores, evaluate
from fusseg.evaluation.scores import Scores
from fusseg.federation.answer import current_model
from fusseg.federation.protocol import Protocol
from fusseg.runs.record_form import BothScores, ModelScores, QualityEntry
from fusseg.runs.saved_state import SavedState
from fusseg.segmentation.assignment import Segmenter
from fusseg.segmentation.objective import Model

GLOBAL = ""
"""Name of the global model; no site can have this name."""


def final_models(saved: SavedState, protocol: Protocol) -> dict[str, Model]:
    """List the models that are scored: the global one, or each client's own (E or C off).

    Args:
        saved: State after a round.
        protocol: Says which parts of the model are shared.

    Returns:
        The global model under `GLOBAL`, or one model per client.
    """
    # After a shared start, no client has a model of its own yet.
    started = saved.state.round_number == 0 and not saved.memories
    if started or not protocol.keeps_own_models:
        return {GLOBAL: saved.state.model}
    return {
        client_id: current_model(saved.state, memory, protocol)
        for client_id, memory in sorted(saved.memories.items())
    }


def score_models(segmenters: Mapping[str, Segmenter], shown: HeldOut) -> ModelScores:
    """Score models on images."""
    evaluations = {name: evaluate(segmenter, shown) for name, segmenter in segmenters.items()}
    return describe_evaluations(evaluations, shown.classes)


def describe_evaluations(
    evaluations: Mapping[str, Evaluation], classes: Classes | None
) -> ModelScores:
    """Describe the scores of one model, or the mean scores of the clients' own models.

    Args:
        evaluations: By model: one called `GLOBAL`, or one per client.
        classes: Names of the classes; None where nothing is labeled.

    Returns:
        Scores, all None where nothing is labeled, and label-free figures. Confusion, matching and
        cluster shares are those of the first model.
    """
    qualities = [evaluation.quality for evaluation in evaluations.values()]
    found = {name: one.scores for name, one in evaluations.items() if one.scores is not None}
    return _describe_scores(
        found,
        classes,
        {
            "cluster_share": qualities[0].cluster_share.tolist(),
            "mean_cosine": fmean(quality.mean_cosine for quality in qualities),
            "mean_margin": fmean(quality.mean_margin for quality in qualities),
        },
    )


def describe_site_scores(scores: LabeledScores | None, classes: Classes | None) -> ModelScores:
    """Describe scores without label-free figures, which only the sites could compute.

    Args:
        scores: Scores of the global model; None where nothing is labeled.
        classes: Names of the classes.
    """
    found = {} if scores is None else {GLOBAL: scores}
    return _describe_scores(found, classes, None)


def _describe_scores(
    found: Mapping[str, LabeledScores], classes: Classes | None, quality: QualityEntry | None
) -> ModelScores:
    if not found or classes is None:
        return {
            "mean_iou": None,
            "mean_iou_stego": None,
            "pixel_accuracy": None,
            "per_class_iou": None,
            "confusion": None,
            "matching": None,
            "sites": {},
            "models": [],
            "quality": quality,
        }
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
        "quality": quality,
    }


def _mean_scores(scores: Sequence[Scores]) -> BothScores:
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
