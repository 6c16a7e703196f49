"""Mean features that lie too far from those of the other clients to be an image's."""

from collections.abc import Sequence
from statistics import median_low

import torch
from jaxtyping import Float
from torch import Tensor

from fusseg.federation.state import Hello


def far_clients(hellos: Sequence[Hello], most: float) -> dict[str, float]:
    """Name the clients whose mean feature lies too far from the others', the farthest first.

    After each the rest is measured again without it.

    Args:
        hellos: One per client.
        most: Largest distance, as `mean_distances` measures it; 0: any.

    Returns:
        Distance by client; empty where all are near.
    """
    far: dict[str, float] = {}
    kept = sorted(hellos, key=lambda hello: hello.client_id)
    while most > 0 and len(kept) > 1:
        distances = mean_distances(kept)
        place = max(range(len(kept)), key=distances.__getitem__)
        if distances[place] <= most:
            break
        far[kept[place].client_id] = distances[place]
        del kept[place]
    return far


def mean_distances(hellos: Sequence[Hello]) -> list[float]:
    """Measure how far each client's mean feature lies from the median of all.

    The median is taken channel by channel, and the unit is the median spread of the clients'
    features: fewer than half of the clients can move neither much, whatever they say. Of two
    clients each is measured by the other.

    Args:
        hellos: At least two.
    """
    means = torch.stack([hello.feature_sum / hello.feature_count for hello in hellos])
    spreads = [hello.feature_spread for hello in hellos]
    if len(hellos) == 2:
        return [_distance(means[0], means[1], spread) for spread in reversed(spreads)]
    # Channel by channel the middle one or, of an even number, the mean of the middle two.
    center = means.quantile(0.5, dim=0)
    return [_distance(mean, center, median_low(spreads)) for mean in means]


def _distance(mean: Float[Tensor, " dim"], center: Float[Tensor, " dim"], spread: float) -> float:
    length = float((mean - center).norm())
    # Where all images are of one even color nothing tells what is far.
    return length / spread if spread > 0 else 0.0
