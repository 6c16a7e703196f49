"""Random sources that depend on (seed, round, client), or on (seed, image), alone."""

import hashlib

from torch import Generator

SERVER = "/server"
"""The server as a party; no site's name holds a slash."""


def round_generator(seed: int, round_number: int, party: str) -> Generator:
    """Random source of one party in one round, the same in simulation and deployment.

    Args:
        seed: Seed of the experiment.
        round_number: Round, from 1; 0 before training.
        party: A client's id, or `SERVER`.
    """
    return _generator(f"{seed}/{round_number}/{party}")


def image_generator(seed: int, digest: str) -> Generator:
    """Random source of one image, the same whichever client holds it.

    Args:
        seed: Seed of the experiment.
        digest: Of the image's bytes.
    """
    return _generator(f"{seed}/image/{digest}")


def _generator(source: str) -> Generator:
    digest = hashlib.sha256(source.encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
