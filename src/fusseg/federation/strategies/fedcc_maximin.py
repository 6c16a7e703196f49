"""FedCC maximin (FUSS paper, Eq. 12): the most distant of the clients' centroids."""

from jaxtyping import Float
from torch import Tensor

from fusseg.federation.clustering import maximin
from fusseg.federation.protocol import Gathered, Strategy
from fusseg.federation.site_clusters import pool_centroids
from fusseg.federation.train_task import each_round, train_task


def spread_centroids(gathered: Gathered) -> Float[Tensor, "clusters code"]:
    """Keep the most distant of the pooled centroids (Eq. 10, 12)."""
    pool, protocol = pool_centroids(gathered), gathered.protocol
    return maximin(pool, protocol.num_clusters, protocol.distance, gathered.generator)


STRATEGY = Strategy(
    each_round(train_task(spread_centroids)), renumbers=True, takes_some_centroids=True
)
