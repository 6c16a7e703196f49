"""The stage before round 1 in which clients prepare each image for an objective."""

from collections.abc import Iterator, Sequence

import torch

from fusseg.features.extraction import Progress
from fusseg.federation.protocol import Protocol
from fusseg.federation.state import Client


def prepare_images(
    clients: Sequence[Client], protocol: Protocol, *, center: bool
) -> Iterator[Progress]:
    """Compute and cache what the objective needs of each image; most objectives need nothing.

    Images that an interrupted call has prepared are not prepared again.

    Args:
        clients: The clients that train.
        protocol: The objective and its settings.
        center: Whether the mean feature is subtracted before any cosine.

    Yields:
        Progress, image by image.

    Raises:
        DataError: If the cache cannot be written.
    """
    objective, settings = protocol.local.objective, protocol.local.settings
    if objective.prepare_image is None or not protocol.strategy.trains:
        return
    total, done = sum(len(client.features) for client in clients), 0
    for client in clients:
        mean = client.features.mean_feature()
        mean = mean if center else torch.zeros_like(mean)
        prepared = objective.prepare(client.features, mean, settings, client.cache)
        for image in range(len(client.features)):
            objective.prepare_image(prepared, image)
            done += 1
            yield Progress("prepare", done, total)
