"""Uneven clients: each class is divided in shares drawn from a Dirichlet distribution."""

import numpy as np
from jaxtyping import Int64

from fusseg.core.errors import ConfigError

MAX_DRAWS = 100


def deal_dirichlet(
    classes: Int64[np.ndarray, " images"],
    num_clients: int,
    alpha: float,
    min_images: int,
    seed: int,
) -> Int64[np.ndarray, " images"]:
    """Draw the clients' shares of each class and divide its images by them (Hsu et al. 2019).

    If a client gets too few images, everything is drawn again.

    Args:
        classes: Dominant class of each image.
        num_clients: Number of clients.
        alpha: Concentration: near 0 one client holds most of a class, far above 1 all hold the
            same share.
        min_images: Least number of images per client.
        seed: Seed of the draws.

    Returns:
        The client of each image, from 0.

    Raises:
        ConfigError: If no draw gives every client enough images.
    """
    generator = np.random.default_rng(seed)
    most = 0
    for _ in range(MAX_DRAWS if num_clients * min_images <= len(classes) else 0):
        clients = _draw(classes, num_clients, alpha, generator)
        smallest = int(np.bincount(clients, minlength=num_clients).min())
        if smallest >= min_images:
            return clients
        most = max(most, smallest)
    if num_clients * min_images > len(classes):
        raise ConfigError(
            f"{len(classes)} images are too few for {num_clients} clients of at least {min_images} "
            "images, a batch; lower data.num_clients or local.batch_size"
        )
    raise ConfigError(
        f"in {MAX_DRAWS} draws with data.alpha {alpha} and {num_clients} clients, the smallest "
        f"client never got more than {most} images, but needs {min_images}, a batch; raise "
        "data.alpha, lower data.num_clients or local.batch_size, or choose another "
        "data.partition_seed"
    )


def _draw(
    classes: Int64[np.ndarray, " images"],
    num_clients: int,
    alpha: float,
    generator: np.random.Generator,
) -> Int64[np.ndarray, " images"]:
    clients = np.empty(len(classes), np.int64)
    for value in np.unique(classes):
        images = generator.permutation(np.flatnonzero(classes == value))
        shares = generator.dirichlet(np.full(num_clients, alpha))
        # One random offset for all ends makes each client's expected number of images its share.
        # Without it, ends would be rounded down, and the last client get the rest of rare classes.
        ends = (np.cumsum(shares)[:-1] * len(images) + generator.random()).astype(np.int64)
        for client, part in enumerate(np.split(images, ends)):
            clients[part] = client
    return clients
