"""Random sources that depend on (seed, round, client) alone."""

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
    digest = hashlib.sha256(f"{seed}/{round_number}/{party}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
