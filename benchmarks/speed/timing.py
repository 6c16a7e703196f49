"""Time a stage and its floor alternately, in one process."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.speed.memory_meter import MemoryMeter

Task = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """The fastest call of a task."""

    seconds: float
    peak_bytes: int | None
    """Highest anonymous memory of the process during the first call; None if it is unknown."""


def time_alternately(
    tasks: Sequence[Task],
    repeats: int,
    device: torch.device | None = None,
    *,
    warm_up: bool = True,
) -> list[Timing]:
    """Call tasks alternately and take the fastest call of each.

    Taking turns spreads slow phases of the machine over all tasks.

    Args:
        tasks: Functions to compare.
        repeats: Timed calls of each.
        device: Device to synchronize after each call; None: the processor, which needs no wait.
        warm_up: Whether to call each task once, untimed, first.
    """
    seconds: list[list[float]] = [[] for _ in tasks]
    peaks: list[int | None] = []
    for turn in range(repeats + warm_up):
        for place, task in enumerate(tasks):
            if turn == 0:
                with MemoryMeter() as meter:
                    taken = _time(task, device)
                    peaks.append(meter.restart())
            else:
                taken = _time(task, device)
            if turn > 0 or not warm_up:
                seconds[place].append(taken)
    return [Timing(min(taken), peak) for taken, peak in zip(seconds, peaks, strict=True)]


def _time(task: Task, device: torch.device | None) -> float:
    _wait_for(device)
    started = time.perf_counter()
    task()
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
