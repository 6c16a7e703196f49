"""The baseline without a federation: each client keeps what it trains, and nothing is sent."""

from fusseg.federation.protocol import Strategy
from fusseg.federation.train_task import each_round, keep_centroids, train_task

STRATEGY = Strategy(each_round(train_task(keep_centroids)), aggregates=False, baseline=True)
