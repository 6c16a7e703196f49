"""FedCC k-means (FUSS paper, Eq. 11): the k-means centers of the clients' centroids."""

from jaxtyping import Float
from torch import Tensor

from fusseg.federation.clustering import kmeans
from fusseg.federation.protocol import Gathered, Strategy
from fusseg.federation.site_clusters import pool_centroids
from fusseg.federation.train_task import each_round, train_task


def cluster_centroids(gathered: Gathered) -> Float[Tensor, "clusters code"]:
    """Replace the pooled centroids (Eq. 10) by their k-means centers (Eq. 11)."""
    pool, protocol = pool_centroids(gathered), gathered.protocol
    return kmeans(pool, protocol.num_clusters, protocol.distance, gathered.generator)


STRATEGY = Strategy(
    each_round(train_task(cluster_centroids)), renumbers=True, takes_some_centroids=True
)
