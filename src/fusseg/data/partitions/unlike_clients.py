"""Clients that have nothing in common, or very different sizes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from fusseg.core.errors import ConfigError
from fusseg.data.partitions.grouping import apportion
from fusseg.data.partitions.small_clients import MIN_IMAGES

LARGEST_RATIO = 10_000


def deal_classes(
    classes: Int64[np.ndarray, " images"], num_clients: int
) -> Int64[np.ndarray, " images"]:
    """Give all images of one dominant class to one client, so that no two share a class.

    Classes are dealt from the most frequent to the rarest, each to the client with the fewest
    images so far; of several, to the first.

    Args:
        classes: Dominant class of each image.
        num_clients: Number of clients.

    Returns:
        The client of each image, from 0.

    Raises:
        ConfigError: If there are fewer classes than clients.

    Examples:
        >>> deal_classes(np.array([0, 0, 0, 1, 1, 2]), 2).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    values, counts = np.unique(classes, return_counts=True)
    if len(values) < num_clients:
        raise ConfigError(
            f'data.partition "classes" gives each client classes of its own, but the images have '
            f"{len(values)} dominant classes for {num_clients} clients; lower data.num_clients"
        )
    clients = np.empty(len(classes), np.int64)
    images = np.zeros(num_clients, np.int64)
    for place in np.lexsort([values, -counts]):
        client = int(images.argmin())
        clients[classes == values[place]] = client
        images[client] += counts[place]
    return clients


def growing_sizes(num_images: int, num_clients: int, ratio: float) -> list[int]:
    """Divide images so that each client has the same multiple of the one before it.

    Every client gets at least the images that it needs to train, so few images may give a smaller
    ratio.

    Args:
        num_images: Number of images, enough for all clients.
        num_clients: Number of clients.
        ratio: Images of the last client for each of the first, up to rounding to whole images.

    Examples:
        >>> growing_sizes(222, 3, 100.0)
        [2, 20, 200]
    """
    shares = np.geomspace(1, ratio, num_clients)
    return apportion([round(share * 1e6) for share in shares], num_images, MIN_IMAGES)


def parse_ratio(text: str) -> float:
    """Read the ratio of `sizes:RATIO`.

    Raises:
        ConfigError: If it is not a number from 1 up.
    """
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 1 <= ratio <= LARGEST_RATIO:
        raise ConfigError(
            f"data.partition 'sizes:{text}' needs a number from 1 to {LARGEST_RATIO} after the "
            "colon: the images of the largest client for each of the smallest"
        )
    return ratio


def deal_sizes(
    num_images: int, sizes: Sequence[int], generator: np.random.Generator
) -> Int64[np.ndarray, " images"]:
    """Shuffle the images and give each client its number of them."""
    clients = np.empty(num_images, np.int64)
    clients[generator.permutation(num_images)] = np.repeat(np.arange(len(sizes)), sizes)
    return clients
