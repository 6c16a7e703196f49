"""Several clients' tensors as one, so that a step advances all of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fusseg.config.compute import Compute
from fusseg.segmentation.objective import LocalTraining

_SHARE_OF_FREE_MEMORY = 0.5
"""Of the device's free memory that the clients of one step may fill, beside their features."""


def stack(tensors: Sequence[Tensor], compute: Compute) -> Tensor:
    """Join the clients' tensors along a new first dimension, on the device.

    That of a single client stays as it is, so that it is computed with as if there were no others.
    """
    joined = tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))
    return compute.send(joined)


def stack_named(tensors: Sequence[Mapping[str, Tensor]], compute: Compute) -> dict[str, Tensor]:
    """Join the clients' tensors name by name: the weights of heads, or what a step drew."""
    return {name: stack([one[name] for one in tensors], compute) for name in tensors[0]}


def unstack(joined: Tensor, num_clients: int) -> list[Tensor]:
    """Undo `stack`, back on the host."""
    on_host = joined.detach().cpu()
    return [on_host] if num_clients == 1 else [part.clone() for part in on_host]


def unstack_named(joined: Mapping[str, Tensor], num_clients: int) -> list[dict[str, Tensor]]:
    """Undo `stack_named`, back on the host."""
    parts = {name: unstack(tensor, num_clients) for name, tensor in joined.items()}
    return [{name: part[client] for name, part in parts.items()} for client in range(num_clients)]


def clients_that_fit(feature_dim: int, local: LocalTraining, compute: Compute) -> int:
    """Say how many clients a step may advance on a device; one on the processor.

    On the processor 18 at once ran at three quarters of the speed of one by one (docs/speed.md).
    """
    memory = local.objective.memory
    if compute.device.type == "cpu" or memory is None:
        return 1
    free = _SHARE_OF_FREE_MEMORY * compute.free_memory()
    return max(1, int(free / memory(feature_dim, local)))
