"""Consensus: cluster the clients' centroids, weighted by their positions (section 3b)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.federation.checks import cosines_only, counts_of_positions
from fusseg.federation.clustering import lloyd_on_sphere, maximin
from fusseg.federation.lloyd_steps import sum_client_codes
from fusseg.federation.parts import Part
from fusseg.federation.protocol import Gathered, Protocol, Strategy, Work
from fusseg.federation.site_clusters import whole_centroids
from fusseg.federation.state import GlobalState
from fusseg.federation.train_task import centroid_part, each_round, send_centroids, train_task
from fusseg.segmentation.assignment import match_rows

MIN_SHARE = 0.001
"""Centroids with a smaller share of their client's positions are dropped."""
EXPONENT = 0.5
"""Exponent of the number of positions in the weight of a centroid (gamma)."""


def usage_parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Describe the centroids, with the number and mean cosine of the positions of each."""
    clusters = (len(state.model.centroids),)
    counts = counts_of_positions("counts", protocol.positions_per_image)
    return {
        **centroid_part(state, protocol),
        "counts": Part(clusters, torch.int64, "collect", counts),
        "cosines": Part(clusters, torch.float64, "collect", cosines_only("cosines")),
    }


def measure_usage(work: Work) -> dict[str, Tensor]:
    """Measure how many of the client's sampled positions each centroid represents, and how well.

    Returns:
        The trained centroids; the number of positions assigned to each; their mean cosine to it, 0
        if there are none.
    """
    model, mean_feature = work.model, work.state.plan.mean_feature
    found = sum_client_codes(work.client, model, mean_feature, work.protocol)
    cosines = found.mean_cosines(model.centroids)
    return {**send_centroids(work), "counts": found.counts, "cosines": cosines}


def agree_on_centroids(gathered: Gathered) -> Float[Tensor, "clusters code"]:
    """Cluster the clients' centroids, weighted by the positions they represent (ours)."""
    centroids, used = whole_centroids(gathered)
    counts, cosines = (torch.stack(gathered.collected[name]) for name in ("counts", "cosines"))
    # A client's code may lie nearest to a centroid of the server's, which the client did not train.
    cosines = torch.where(used, cosines, 0)
    generator = gathered.generator if gathered.round_number == 1 else None
    previous = gathered.state.model.centroids
    unused = ~used.any(dim=0)
    if bool(unused.any()):
        # The server's centroids of clusters that no client has stay, like a client's of one code.
        centroids = torch.cat([centroids, previous[None]])
        counts = torch.cat([counts, unused[None].long()])
        cosines = torch.cat([cosines, unused[None].double()])
    return consensus_centroids(centroids, counts, cosines, previous, generator)


def consensus_centroids(
    centroids: Float[Tensor, "clients clusters code"],
    counts: Int[Tensor, "clients clusters"],
    cosines: Float[Tensor, "clients clusters"],
    previous: Float[Tensor, "clusters code"],
    generator: Generator | None,
) -> Float[Tensor, "clusters code"]:
    """Cluster the clients' centroids by weighted spherical k-means; index k keeps its meaning.

    The result does not depend on the order of the clients or of their centroids.

    Args:
        centroids: Centroids of each client.
        counts: Number of positions assigned to each.
        cosines: Mean cosine of those positions to it.
        previous: Global centroids of the previous round. The clustering starts from them, and its
            result is matched to them.
        generator: Random source of a maximin start; None: start from the previous centroids.

    Returns:
        Centroids of unit length; previous ones fill in if the pool has too few directions.
    """
    points, weights = _weigh(centroids, counts, cosines)
    start = normalize(previous.double(), dim=1)
    if generator is not None and len(points) > 0:
        picked = maximin(points, min(len(start), len(points)), "cosine", generator)
        start = torch.cat([picked, start[len(picked) :]])
    if len(points) > 0:
        start = lloyd_on_sphere(points, weights, start)
    return match_rows(start, previous).to(centroids.dtype)


def _weigh(
    centroids: Float[Tensor, "clients clusters code"],
    counts: Int[Tensor, "clients clusters"],
    cosines: Float[Tensor, "clients clusters"],
) -> tuple[Float[Tensor, "pooled code"], Float[Tensor, " pooled"]]:
    """Pool the centroids that represent enough positions: unit rows and their weights.

    Rows are sorted by value, so that sums and random picks do not depend on who sent them.
    """
    totals = counts.sum(dim=1, keepdim=True)
    weights = counts.double() ** EXPONENT * cosines.clamp(min=0)
    kept = (counts >= MIN_SHARE * totals) & (weights > 0)
    rows, weights = normalize(centroids.double(), dim=-1)[kept], weights[kept]
    order = np.lexsort([weights.numpy(), *rows.numpy().T[::-1]])
    return rows[torch.from_numpy(order)], weights[torch.from_numpy(order)]


STRATEGY = Strategy(
    each_round(train_task(agree_on_centroids, usage_parts, measure_usage)),
    min_clients=2,
    takes_some_centroids=True,
)
