"""Random generators that depend only on (seed, round, client) or on (seed, image)."""

import hashlib

from torch import Generator

SERVER = "/server"
"""Name of the server as a party; no site can have it, because site names contain no slash."""


def round_generator(seed: int, round_number: int, party: str) -> Generator:
    """Create the random generator of one party in one round, in simulation and deployment alike.

    Args:
        seed: Seed of the experiment.
        round_number: Round, from 1; 0 before training.
        party: A client's id, or `SERVER`.

    Examples:
        >>> first, second = (round_generator(0, 1, "yard") for _ in range(2))
        >>> first.initial_seed() == second.initial_seed()
        True
    """
    return _generator(f"{seed}/{round_number}/{party}")


def image_generator(seed: int, digest: str) -> Generator:
    """Create the random generator of one image; it does not depend on the client that holds it.

    Args:
        seed: Seed of the experiment.
        digest: Digest of the image's bytes.
    """
    return _generator(f"{seed}/image/{digest}")


def _generator(source: str) -> Generator:
    digest = hashlib.sha256(source.encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
