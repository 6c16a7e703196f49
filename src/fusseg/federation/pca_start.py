"""The start from sums: federated PCA, Lloyd steps and merging before round 1 (section 3b).

k-means prefers clusters of equal size and spread, which regions are not. So the Lloyd steps place
more clusters than regions are wanted, and average linkage merges those that are alike.
"""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.config.schema import Config, ModelConfig
from fusseg.features.backbones import is_zoomable
from fusseg.federation.judge import CHOOSE, judge_start, judge_starts
from fusseg.federation.lloyd_steps import LLOYD_STEP, CodeSums, move_centroids
from fusseg.federation.moments import merge_moments, moments_task
from fusseg.federation.protocol import Gathered, Strategy, Task
from fusseg.federation.region_exchange import region_tasks
from fusseg.federation.region_merging import merge_clusters
from fusseg.federation.side_by_side import side_by_side
from fusseg.federation.start_numbers import ESTIMATE
from fusseg.federation.state import GlobalState
from fusseg.segmentation.objective import LocalTraining, Model

START = "start"
"""Name of round 0 in the record."""
WHITENINGS = (0.0, 0.5, 1.0)
"""Exponents that `model.whitening = "auto"` tries, in this order."""


def start_tasks(config: Config, strategy: Strategy, local: LocalTraining) -> tuple[Task, ...]:
    """List the exchanges of round 0; none if the start is drawn or loaded.

    Clients that train alone compute their own start. All others share one, even if each keeps a
    part of the model to itself later.

    Args:
        config: `model.init` and `model.start` say where training starts.
        strategy: Strategy of the federation.
        local: Its objective may estimate numbers from the start.
    """
    model = config.model
    if model.start or model.init == "random":
        return ()
    many = model.num_clusters * (model.init_clusters if model.init_steps > 0 else 1)
    placing = (*lloyd_tasks(model, many), *region_tasks(model))
    alone = strategy.baseline and not strategy.pools_images
    # Starts are compared by zoomed views, and by all clients together.
    if model.whitening == "auto" and not alone and is_zoomable(config.backbone.name):
        tasks = [*several_starts(many, placing)]
    else:
        whitening = 0.0 if model.whitening == "auto" else model.whitening
        tasks = [moments_task(many, whitening), *placing]
        if alone:
            return tuple(tasks)
        if chooses(config, strategy):
            tasks.append(judge_start(START))
    if strategy.trains and local.objective.wants_start(local.settings):
        tasks.append(ESTIMATE)
    return tuple(replace(task, shared=True) for task in tasks)


def lloyd_tasks(model: ModelConfig, many: int) -> tuple[Task, ...]:
    """List the Lloyd steps of a start with `many` clusters; the last one merges them."""
    step = replace(LLOYD_STEP, clusters=(many, many))
    if many == model.num_clusters:
        return (step,) * model.init_steps
    merge = partial(merge_last, model.num_clusters)
    last = replace(step, merge=merge, clusters=(many, model.num_clusters))
    return (*(step,) * (model.init_steps - 1), last)


def several_starts(many: int, placing: tuple[Task, ...]) -> tuple[Task, ...]:
    """List the exchanges of all whitenings: their moments, then all starts and judgments at once.

    Args:
        many: Number of centroids that each start begins with.
        placing: Exchanges that place the centroids of a start.
    """
    names = [f"whitening {whitening:g}" for whitening in WHITENINGS]
    moments = replace(moments_task(many), conclude=partial(begin_starts, many))
    placed = (side_by_side(task, len(names)) for task in placing)
    return (moments, *placed, judge_starts(names))


def begin_starts(num_clusters: int, gathered: Gathered) -> GlobalState:
    """Begin a start with each whitening, all from the same moments: the server's side."""
    starts = (merge_moments(num_clusters, whitening, gathered) for whitening in WHITENINGS)
    return replace(gathered.state, starts=tuple(starts))


def chooses(config: Config, strategy: Strategy) -> bool:
    """Tell whether the server chooses between the computed start and the trained model.

    Clients that keep a part of the model have no common model to judge, and without a computed
    start or any round after it there is nothing to choose from.
    """
    model, federation = config.model, config.federation
    computed = model.init != "random" and not model.start
    averaged = federation.aggregate_heads and federation.aggregate_centroids
    shared = averaged if strategy.aggregates is None else strategy.aggregates
    pooled = strategy.pools_images or not strategy.baseline
    rounds = strategy.trains or federation.lloyd_rounds > 0
    return federation.keep == "best" and computed and shared and pooled and rounds


def choice_tasks(config: Config, strategy: Strategy) -> tuple[Task, ...]:
    """List the exchanges after the last round: one if the server chooses, else none."""
    return (CHOOSE,) if chooses(config, strategy) else ()


def merge_last(num_clusters: int, gathered: Gathered) -> Model:
    """Take the last Lloyd step, then merge the clusters: the server's side of both."""
    model, totals = gathered.state.model, gathered.totals
    found = CodeSums(totals["sums"], totals["counts"])
    return Model(model.head, merge_centroids(model.centroids, found, num_clusters))


def merge_centroids(
    centroids: Float[Tensor, "clusters code"], found: CodeSums, num_clusters: int
) -> Float[Tensor, "merged code"]:
    """Merge clusters by average linkage; each merged centroid points to the sum of its codes.

    >>> sums = torch.tensor([[4.0, 0.0], [0.0, 3.0], [3.0, 4.0]])
    >>> merge_centroids(sums, CodeSums(sums.double(), torch.tensor([4, 3, 5])), num_clusters=2)
    tensor([[1.0000, 0.0000],
            [0.3939, 0.9191]])

    Args:
        centroids: The centroids that codes were assigned to; those without codes fill in if fewer
            than `num_clusters` have codes.
        found: Sums of the codes of each.
        num_clusters: Number of centroids to return, at most that of the given ones.

    Returns:
        Rows of unit length.
    """
    moved = move_centroids(centroids, found)
    filled = found.counts > 0
    if int(filled.sum()) <= num_clusters:
        order = torch.argsort(filled.int(), descending=True, stable=True)
        return moved[order[:num_clusters]]
    group = merge_clusters(moved, found.counts, num_clusters, sums=found.sums)
    shape = (num_clusters, centroids.shape[1])
    sums = torch.zeros(shape, dtype=torch.float64).index_add_(0, group, found.sums)
    counts = torch.zeros(num_clusters, dtype=torch.int64).index_add_(0, group, found.counts)
    return move_centroids(moved[:num_clusters], CodeSums(sums, counts))
