"""Several clients' tensors as one, so that a step advances all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusseg.compute import Compute
from fusseg.config import LocalConfig
from fusseg.segmentation.head import HeadWeights

_SHARE_OF_FREE_MEMORY = 0.5
"""Of the device's free memory that the clients of one step may fill, beside their features."""


def stack(tensors: Sequence[Tensor], compute: Compute) -> Tensor:
    """Join the clients' tensors along a new first dimension, on the device.

    That of a single client stays as it is, so that it is computed with as if there were no others.
    """
    joined = tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))
    return compute.send(joined)


def stack_heads(heads: Sequence[HeadWeights], compute: Compute) -> HeadWeights:
    """Join the clients' heads, weight by weight."""
    return {name: stack([head[name] for head in heads], compute) for name in heads[0]}


def unstack(joined: Tensor, num_clients: int) -> list[Tensor]:
    """Undo `stack`, back on the host."""
    on_host = joined.detach().cpu()
    return [on_host] if num_clients == 1 else [part.clone() for part in on_host]


def unstack_heads(joined: HeadWeights, num_clients: int) -> list[HeadWeights]:
    """Undo `stack_heads`, back on the host."""
    parts = {name: unstack(weight, num_clients) for name, weight in joined.items()}
    return [{name: part[client] for name, part in parts.items()} for client in range(num_clients)]


def clients_that_fit(feature_dim: int, local: LocalConfig, compute: Compute) -> int:
    """Say how many clients a step may advance on a device; one on the processor.

    On the processor 18 at once ran at three quarters of the speed of one by one (docs/speed.md).
    """
    if compute.device.type == "cpu":
        return 1
    free = _SHARE_OF_FREE_MEMORY * compute.free_memory()
    return max(1, int(free / _step_bytes(feature_dim, local)))


def _step_bytes(feature_dim: int, local: LocalConfig) -> int:
    """Estimate a client's memory in a step: copies of features, pairs, and weights with Adam's."""
    positions = 2 * local.batch_size * local.positions
    features = 6 * positions * feature_dim
    pairs = 8 * (2 + local.random_supports) * local.batch_size * local.positions**2
    weights = 6 * feature_dim * (feature_dim + 2 * feature_dim)
    return 4 * (features + pairs + weights)
