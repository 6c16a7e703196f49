"""The exchange in which clients train: heads are averaged, and a rule merges the centroids."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.federation.checks import check_centroids, number_within, within_reach
from fusseg.federation.lloyd_steps import LLOYD_STEP, sum_client_codes
from fusseg.federation.parts import (
    CENTROIDS,
    HEAD,
    Part,
    PartCheck,
    Reduce,
    head_parts,
    name_head,
)
from fusseg.federation.protocol import Gathered, Protocol, Task, Work
from fusseg.federation.site_clusters import send_used_centroids, used_centroid_parts
from fusseg.federation.state import GlobalState
from fusseg.federation.weights import FIT
from fusseg.segmentation.objective import Model

TRAIN = "train"
CentroidRule = Callable[[Gathered], Float[Tensor, "clusters code"]]
"""Computes the next centroids from the clients' updates; chosen by `federation.strategy`."""


def centroid_part(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the centroids that clients send after training."""
    if protocol.site_clusters == "used":
        return used_centroid_parts(state, protocol)
    start, local = state.model.centroids, protocol.local
    check = within_reach(CENTROIDS, start, state.plan.num_steps, local.centroid_learning_rate)
    # Centroids that are averaged can be hidden in sums, too.
    sums = protocol.privacy.secure_sum and protocol.strategy.averages_centroids
    reduce: Reduce = "mean" if sums else "collect"
    return {CENTROIDS: Part(tuple(start.shape), start.dtype, reduce, check, start=start)}


def send_centroids(work: Work) -> dict[str, Tensor]:
    """Send the trained centroids."""
    if work.used is not None:
        return send_used_centroids(work)
    return {CENTROIDS: work.model.centroids}


def no_parts(_state: GlobalState, _protocol: Protocol) -> dict[str, Part]:
    """Describe no part besides the head."""
    return {}


def send_nothing(_work: Work) -> dict[str, Tensor]:
    """Send nothing besides the head."""
    return {}


def keep_centroids(gathered: Gathered) -> Float[Tensor, "clusters code"]:
    """Return the centroids from before training."""
    return gathered.state.model.centroids


@dataclass(frozen=True)
class _Rule:
    """What a strategy adds to the training of heads; unused if centroids are not aggregated."""

    merge: CentroidRule
    parts: Callable[[GlobalState, Protocol], dict[str, Part]]
    measure: Callable[[Work], dict[str, Tensor]]


def train_task(
    merge: CentroidRule,
    parts: Callable[[GlobalState, Protocol], dict[str, Part]] = centroid_part,
    measure: Callable[[Work], dict[str, Tensor]] = send_centroids,
) -> Task:
    """Make the exchange in which clients train.

    Args:
        merge: Computes the next centroids from the clients' updates (Eq. 9, 11 or 12).
        parts: Describes what clients send besides the head; by default their centroids.
        measure: Computes those parts.
    """
    rule = _Rule(merge, parts, measure)
    return Task(
        name=TRAIN,
        parts=partial(_parts, rule),
        measure=partial(_measure, rule),
        merge=partial(_merge, rule),
        trains=True,
    )


def each_round(task: Task, *more: Task) -> Callable[[int, Protocol], tuple[Task, ...]]:
    """Run the same exchanges in every training round; the finish takes federated Lloyd steps."""

    def tasks(round_number: int, protocol: Protocol) -> tuple[Task, ...]:
        return (task, *more) if round_number <= protocol.rounds else (LLOYD_STEP,)

    return tasks


def _parts(rule: _Rule, state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    sent: dict[str, Part] = {}
    if protocol.averages_heads:
        steps, rate = state.plan.num_steps, protocol.local.head_learning_rate

        def check(name: str, start: Tensor) -> PartCheck:
            return within_reach(name, start, steps, rate)

        sent |= head_parts(state.model.head, check)
    if protocol.weighs_by_fit:
        sent[FIT] = Part((), torch.float64, "collect", number_within(FIT, -1.0, 1.0))
    return sent | rule.parts(state, protocol) if protocol.aggregate_centroids else sent


def _measure(rule: _Rule, work: Work) -> dict[str, Tensor]:
    sent = name_head(work.model.head) if work.protocol.averages_heads else {}
    if work.protocol.weighs_by_fit:
        mean_feature, centroids = work.state.plan.mean_feature, work.model.centroids
        found = sum_client_codes(work.client, work.model, mean_feature, work.protocol)
        sent[FIT] = found.mean_cosine(centroids)
    return sent | rule.measure(work) if work.protocol.aggregate_centroids else sent


def _merge(rule: _Rule, gathered: Gathered) -> Model:
    """Average the heads (Eq. 8) and apply the rule to the centroids."""
    protocol, model = gathered.protocol, gathered.state.model
    head, centroids = model.head, model.centroids
    if protocol.averages_heads:
        head = {name: gathered.totals[f"{HEAD}{name}"] for name in head}
    if protocol.aggregate_centroids:
        centroids = check_centroids(protocol.strategy_name, rule.merge(gathered), centroids)
    return Model(head, centroids)
