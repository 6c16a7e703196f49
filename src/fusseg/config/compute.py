"""Device and precision of computations: the only place that decides them."""

import os
import platform
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fusseg.config.schema import ComputeConfig
from fusseg.core.errors import ConfigError

_LOADED_BY = os.getpid()
_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Linux's names of bfloat16 instructions: of Intel and AMD, of Intel's tiles (AMX), of ARM."""
_MODEL_NUMBERS = ("cpu family", "model", "stepping")
"""Needed because a virtual machine may give all models of a vendor the same name."""


@dataclass(frozen=True)
class Compute:
    """Device and precision, as decided by `choose_compute`."""

    device: torch.device
    precision: torch.dtype
    """Precision of matrix products; sums, losses, weights and optimizers are always float32."""

    @property
    def precision_name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.precision).removeprefix("torch.")

    def products(self) -> AbstractContextManager[None]:
        """Multiply matrices in the chosen precision inside this context."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def send(self, tensor: Tensor) -> Tensor:
        """Copy a tensor from the host to the device; with CUDA, without waiting for the copy."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def free_memory(self) -> int:
        """Free memory of the device in bytes; 0 if the device is the CPU."""
        if self.device.type == "cuda":
            # Memory that torch has reserved but does not use is free as well.
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(
                self.device
            )
            return int(torch.cuda.mem_get_info(self.device)[0]) + int(unused)
        if self.device.type == "mps":
            return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        return 0


EXACT = Compute(torch.device("cpu"), torch.float32)
"""float32 on the CPU."""


def choose_compute(config: ComputeConfig) -> Compute:
    """Choose the device and the precision.

    `auto` chooses CUDA if it is available, and bfloat16 if the device supports it in hardware.

    Raises:
        ConfigError: If the configured device is not available.
    """
    device = _choose_device(config.device)
    precision = torch.float32
    if config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16(device)):
        precision = torch.bfloat16
    return Compute(device, precision)


def set_threads(config: ComputeConfig) -> None:
    """Set torch's number of threads to the configured one; 0 keeps torch's own choice."""
    if config.threads:
        torch.set_num_threads(config.threads)


def settle_in_child() -> None:
    """Limit torch to one thread in a forked child of the process that loaded this module.

    The parent's other threads do not exist in the child, and OpenMP would wait for them forever.
    """
    if os.getpid() != _LOADED_BY and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(re.findall(r"\w+", _describe_processor()))


def processor_name() -> str:
    """Name the processor's model, with the numbers that distinguish models of the same name.

    Scores can differ between processors, because they round sums differently.
    """
    fields = {
        name.strip(): value.strip()
        for name, colon, value in (
            line.partition(":") for line in _describe_processor().split("\n")
        )
        if colon
    }
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {fields[key]}" for key in _MODEL_NUMBERS if key in fields]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _describe_processor() -> str:
    """Read Linux's description of the processor; empty on other systems."""
    try:
        return _CPU_INFO.read_text()
    except OSError:
        return ""


def _choose_device(name: str) -> torch.device:
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not there[name]:
        known = ", ".join(device for device, found in there.items() if found)
        raise ConfigError(
            f"compute.device is {name!r}, but torch {torch.__version__} finds none; choose "
            f"{known}, or install a build of torch with {name}"
        )
    return torch.device(name)
