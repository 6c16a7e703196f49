"""The fusseg command with a strategy of our own: python own_strategy.py COMMAND ..."""

from torch import Generator, Tensor
from torch.nn.functional import normalize

from fusseg.cli.app import main
from fusseg.federation.strategies import STRATEGIES, PooledCentroids


def take_largest(pool: PooledCentroids, distance: str, generator: Generator) -> Tensor:
    """Keep the centroids of the client with the most images."""
    return normalize(pool.centroids[pool.shares.argmax()], dim=1)


STRATEGIES["largest"] = take_largest

if __name__ == "__main__":
    main()
