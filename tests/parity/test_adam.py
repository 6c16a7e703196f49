"""Our Adam against torch's optimizer class, to the last bit."""

import subprocess
import sys

import pytest
import torch
from torch.optim import Adam as TorchAdam

from fusseg.segmentation.adam import Adam


@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_those_of_torchs_optimizer(seeded, fused):
    generator = seeded(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((5, 3), (7,))]
    ours = [start.clone().requires_grad_(True) for start in starts]
    theirs = [start.clone().requires_grad_(True) for start in starts]
    left = Adam(ours, 5e-3, fused=fused)
    right = TorchAdam(theirs, lr=5e-3, fused=fused, foreach=False)
    for step in range(6):
        for own, other in zip(ours, theirs, strict=True):
            gradient = torch.randn(own.shape, generator=generator) * 10.0**-step
            own.grad, other.grad = gradient, gradient.clone()
        left.step()
        right.step()
        assert all(own.grad is None for own in ours)
    for own, other, start in zip(ours, theirs, starts, strict=True):
        assert torch.equal(own, other)
        assert not torch.equal(own, start)


def test_it_does_not_import_torchs_compiler():
    program = (
        "import sys, torch\n"
        "from fusseg.segmentation.adam import Adam\n"
        "tensor = torch.ones(3, requires_grad=True)\n"
        "tensor.grad = torch.ones(3)\n"
        "Adam([tensor], 0.1, fused=False).step()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
