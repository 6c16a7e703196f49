"""Which clients take part in a round."""

from collections.abc import Iterable

import torch

from fusseg.config import FederationConfig
from fusseg.randomness import round_generator

_DRAW = "/participants"
"""The draw as a party of its own; no site's name holds a slash."""


def draw_participants(
    client_ids: Iterable[str], round_number: int, federation: FederationConfig, seed: int
) -> tuple[str, ...]:
    """Draw who takes part in all exchanges of a round, the same in simulation and deployment.

    Args:
        client_ids: Who could take part, in any order.
        round_number: From 1.
        federation: How many take part; as many as there are where they are fewer.
        seed: Seed of the experiment.

    Returns:
        Their ids, sorted.
    """
    names = sorted(client_ids)
    count = num_participants(len(names), federation)
    if count == len(names):
        return tuple(names)
    generator = round_generator(seed, round_number, _DRAW)
    drawn = torch.randperm(len(names), generator=generator)[:count]
    return tuple(names[place] for place in sorted(drawn.tolist()))


def num_participants(num_clients: int, federation: FederationConfig) -> int:
    """Count the clients that take part in a round."""
    return min(federation.clients_per_round or num_clients, num_clients)
