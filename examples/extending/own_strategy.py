"""The fusseg command with a strategy of our own: python own_strategy.py COMMAND ..."""

import torch
from torch import Tensor

from fusseg.cli.app import main
from fusseg.federation.lloyd_steps import sum_codes
from fusseg.federation.parts import CENTROIDS, Part
from fusseg.federation.points import sample_positions, unit_codes
from fusseg.federation.protocol import Gathered, Protocol, Strategy, Work
from fusseg.federation.state import GlobalState
from fusseg.federation.strategies import STRATEGIES
from fusseg.federation.train_task import centroid_part, each_round, train_task


def parts(state: GlobalState, protocol: Protocol) -> dict[str, Part]:
    """Say what clients send beside the head: centroids, and how many positions each stands for."""
    counts = Part((protocol.num_clusters,), torch.int64, "collect")
    return {**centroid_part(state, protocol), "counts": counts}


def measure(work: Work) -> dict[str, Tensor]:
    """Count the client's sampled positions by their nearest centroid."""
    model, features, protocol = work.model, work.client.features, work.protocol
    positions = sample_positions(features, protocol.positions_per_image, protocol.seed)
    codes = unit_codes(model.head, features, positions, work.state.plan.mean_feature)
    return {CENTROIDS: model.centroids, "counts": sum_codes(codes, model.centroids).counts}


def merge(gathered: Gathered) -> Tensor:
    """Average each centroid over the clients, by the positions it stands for at each of them."""
    centroids = torch.stack(gathered.collected[CENTROIDS]).double()
    counts = torch.stack(gathered.collected["counts"]).double()[:, :, None]
    average = (counts * centroids).sum(dim=0) / counts.sum(dim=0).clamp(min=1)
    unused = counts.sum(dim=0) == 0
    return torch.where(unused, gathered.state.model.centroids.double(), average).float()


STRATEGIES["by-use"] = Strategy(each_round(train_task(merge, parts, measure)))

if __name__ == "__main__":
    main()
