"""Adam over a few tensors, without the slow import of torch's optimizer classes."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam with torch's defaults (arXiv 1412.6980), through torch's own functional form.

    Creating a `torch.optim.Adam` imports torch's compiler, which takes about a second: longer than
    a site needs to answer a message. The arithmetic is the same to the last bit.

    Attributes:
        tensors: The tensors to train, updated in place.
    """

    def __init__(self, tensors: Iterable[Tensor], learning_rate: float, *, fused: bool) -> None:
        self.tensors = list(tensors)
        self._learning_rate = learning_rate
        self._fused = fused
        self._averages = [torch.zeros_like(tensor) for tensor in self.tensors]
        self._squares = [torch.zeros_like(tensor) for tensor in self.tensors]
        # The fused kernels read the count where the tensors are, the others on the host.
        self._steps = [
            torch.zeros((), device=tensor.device if fused else "cpu") for tensor in self.tensors
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Update every tensor by its gradient, then clear the gradients."""
        gradients = [tensor.grad for tensor in self.tensors if tensor.grad is not None]
        adam(
            self.tensors,
            gradients,
            self._averages,
            self._squares,
            [],
            self._steps,
            foreach=False,
            fused=self._fused,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        for tensor in self.tensors:
            tensor.grad = None
