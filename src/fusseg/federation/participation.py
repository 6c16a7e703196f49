"""Which clients take part in a round."""

from collections.abc import Iterable

import torch

from fusseg.core.randomness import round_generator
from fusseg.federation.protocol import Protocol

_DRAW = "/participants"
"""The draw as a party of its own; no site's name holds a slash."""


def draw_participants(
    client_ids: Iterable[str], round_number: int, protocol: Protocol
) -> tuple[str, ...]:
    """Draw who takes part in all exchanges of a round, the same in simulation and deployment.

    Args:
        client_ids: Who could take part, in any order.
        round_number: From 1.
        protocol: How many take part, as many as there are where they are fewer; and the seed.

    Returns:
        Their ids, sorted.
    """
    names = sorted(client_ids)
    count = num_participants(len(names), protocol)
    if count == len(names):
        return tuple(names)
    generator = round_generator(protocol.seed, round_number, _DRAW)
    drawn = torch.randperm(len(names), generator=generator)[:count]
    return tuple(names[place] for place in sorted(drawn.tolist()))


def num_participants(num_clients: int, protocol: Protocol) -> int:
    """Count the clients that take part in a round."""
    return min(protocol.clients_per_round or num_clients, num_clients)
