"""FedAvg (arXiv 1602.05629): the clients' heads and centroids are averaged (Eq. 8, 9)."""

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.federation.parts import CENTROIDS
from fusseg.federation.protocol import Gathered, Strategy
from fusseg.federation.site_clusters import USED, whole_centroids
from fusseg.federation.train_task import each_round, train_task


def average_centroids(gathered: Gathered) -> Float[Tensor, "clusters code"]:
    """Average centroids index by index, as if index k meant the same for all clients (Eq. 9).

    If clients send only their own clusters, each centroid is the average over those who have the
    cluster. No client moves it by more than `federation.max_weight_share` of the way: what is left
    to 1 is the weight of the server's centroid, which stays where nobody has the cluster. With
    `privacy.secure_sum` the clients' centroids arrive as their average.
    """
    if CENTROIDS in gathered.totals:
        return gathered.totals[CENTROIDS]
    if USED not in gathered.collected:
        centroids = torch.stack(gathered.collected[CENTROIDS])
        return torch.einsum("n,nkc->kc", gathered.shares, centroids.double()).to(centroids.dtype)
    centroids, used = whole_centroids(gathered)
    weights = gathered.shares[:, None] * used
    weights = weights / weights.sum(dim=0).clamp(min=1e-300)
    weights = weights.clamp(max=gathered.protocol.max_weight_share)
    start = gathered.state.model.centroids
    rest = (1 - weights.sum(dim=0)).clamp(min=0)[:, None]
    sums = torch.einsum("nk,nkc->kc", weights, centroids.double()) + rest * start.double()
    return sums.to(start.dtype)


STRATEGY = Strategy(
    each_round(train_task(average_centroids)),
    averages_centroids=True,
    takes_some_centroids=True,
)
