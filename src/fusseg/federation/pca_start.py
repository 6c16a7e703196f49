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
from fusseg.federation.judge import CHOOSE, judge_start
from fusseg.federation.lloyd_steps import LLOYD_STEP, CodeSums, move_centroids
from fusseg.federation.moments import moments_task
from fusseg.federation.protocol import Gathered, Strategy, Task
from fusseg.federation.region_merging import merge_clusters
from fusseg.federation.start_numbers import ESTIMATE
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
    if strategy.baseline and not strategy.pools_images:
        return one_start(model, 0.0 if model.whitening == "auto" else model.whitening)
    tasks: list[Task] = []
    if model.whitening == "auto":
        for whitening in WHITENINGS:
            name, last = f"whitening {whitening:g}", whitening == WHITENINGS[-1]
            tasks += [*one_start(model, whitening), judge_start(name, last=last)]
    else:
        tasks += one_start(model, model.whitening)
        if chooses(config, strategy):
            tasks.append(judge_start(START, last=True))
    if strategy.trains and local.objective.wants_start(local.settings):
        tasks.append(ESTIMATE)
    return tuple(replace(task, shared=True) for task in tasks)


def one_start(model: ModelConfig, whitening: float) -> tuple[Task, ...]:
    """List the exchanges that compute a start: the moments, then the Lloyd steps."""
    many = model.num_clusters * (model.init_clusters if model.init_steps > 0 else 1)
    step = replace(LLOYD_STEP, clusters=(many, many))
    tasks = [moments_task(many, whitening), *[step] * model.init_steps]
    if many > model.num_clusters:
        merge = partial(merge_last, model.num_clusters)
        tasks[-1] = replace(step, merge=merge, clusters=(many, model.num_clusters))
    return tuple(tasks)


def chooses(config: Config, strategy: Strategy) -> bool:
    """Tell whether the server chooses between the computed start and the trained model.

    Clients that keep a part of the model have no common model to judge, and without a computed
    start or any round after it there is nothing to choose from.
    """
    model, federation = config.model, config.federation
    computed = model.init == "pca" and not model.start
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
