"""FedAvg (arXiv 1602.05629): the clients' heads and centroids are averaged (Eq. 8, 9)."""

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.federation.parts import CENTROIDS
from fusseg.federation.protocol import Gathered, Strategy
from fusseg.federation.train_task import each_round, train_task


def average_centroids(gathered: Gathered) -> Float[Tensor, "clusters code"]:
    """Average centroids index by index, as if index k meant the same for all clients (Eq. 9)."""
    centroids = torch.stack(gathered.collected[CENTROIDS])
    return torch.einsum("n,nkc->kc", gathered.shares, centroids.double()).to(centroids.dtype)


STRATEGY = Strategy(each_round(train_task(average_centroids)))
