"""Describe the machine of the measurements: processor, memory, accelerator, versions."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.speed.products import REFERENCE_SHAPE, product_rate
from fusseg.config.compute import has_bfloat16, processor_name
from fusseg.config.schema import DeviceName
from fusseg.runs.record import versions
from fusseg.runs.record_form import Versions

_MEMORY_INFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """The machine and versions that the figures depend on."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int | None
    """None if it is unknown."""
    bfloat16: bool
    """Whether the processor multiplies bfloat16 in hardware."""
    accelerator: str
    """Empty: none was used."""
    versions: Versions
    gflop_per_second: dict[str, float]
    """Rate of the reference product by precision, on the device."""


def describe_machine(device: DeviceName, repeats: int) -> Machine:
    """Describe the machine and measure the rate of its matrix products.

    Args:
        device: Device on which training is measured.
        repeats: Timed calls of the reference product.
    """
    place = torch.device(device)
    precisions = [torch.float32, *([torch.bfloat16] if has_bfloat16(place) else [])]
    return Machine(
        processor=processor_name(),
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        bfloat16=has_bfloat16(torch.device("cpu")),
        accelerator=torch.cuda.get_device_name(place) if place.type == "cuda" else "",
        versions=versions(),
        gflop_per_second={
            str(precision).removeprefix("torch."): product_rate(precision, place, repeats)
            for precision in precisions
        },
    )


def machine_text(machine: Machine) -> str:
    """Describe the machine in one sentence."""
    parts = [f"{machine.processor}, {machine.cores} cores, {machine.threads} threads"]
    if machine.memory_bytes is not None:
        parts.append(f"{machine.memory_bytes / 2**30:.0f} GiB of memory")
    if machine.accelerator:
        parts.append(machine.accelerator)
    parts.append("bfloat16 in hardware" if machine.bfloat16 else "no bfloat16 in hardware")
    parts.append(f"torch {machine.versions['torch']}, Python {machine.versions['python']}")
    return "; ".join(parts) + "."


def rate_text(machine: Machine) -> str:
    """Describe how fast the machine multiplies matrices."""
    shape = "x".join(str(side) for side in REFERENCE_SHAPE)
    rates = " and ".join(
        f"{rate:.0f} GFLOP/s in {precision}" for precision, rate in machine.gflop_per_second.items()
    )
    return f"Reference product {shape}: {rates}."


def _memory_bytes() -> int | None:
    try:
        lines = _MEMORY_INFO.read_text().splitlines()
    except OSError:
        return None
    totals = [line.split()[1] for line in lines if line.startswith("MemTotal:")]
    return int(totals[0]) * 1024 if totals else None
