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

    If clients send only the clusters that they have, each centroid is the average of those clients;
    the server's stays where nobody has the cluster.
    """
    if USED not in gathered.collected:
        centroids = torch.stack(gathered.collected[CENTROIDS])
        return torch.einsum("n,nkc->kc", gathered.shares, centroids.double()).to(centroids.dtype)
    centroids, used = whole_centroids(gathered)
    weights = gathered.shares[:, None] * used
    total = weights.sum(dim=0)[:, None]
    sums = torch.einsum("nk,nkc->kc", weights, centroids.double())
    start = gathered.state.model.centroids
    return torch.where(total > 0, sums / total.clamp(min=1e-300), start.double()).to(start.dtype)


STRATEGY = Strategy(
    each_round(train_task(average_centroids)),
    averages_centroids=True,
    takes_some_centroids=True,
)
