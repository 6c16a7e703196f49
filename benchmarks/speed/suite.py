"""All measurements; each runs in a process of its own."""

import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from benchmarks.speed.aggregation import aggregation_rows, kmeans_rows
from benchmarks.speed.extraction import filterbank_rows, given_backbone_rows, vit_rows
from benchmarks.speed.memory import given_backbone_memory_rows, memory_rows
from benchmarks.speed.neighbors import neighbor_rows
from benchmarks.speed.products import STEP_PRODUCTS
from benchmarks.speed.rounds import round_rows
from benchmarks.speed.rows import SpeedRow
from benchmarks.speed.scoring import evaluation_rows
from benchmarks.speed.sizes import Setting, Sizes
from benchmarks.speed.starting import start_rows
from benchmarks.speed.training import local_step_rows, objective_step_rows, small_clients_rows
from fusseg.core.worker_processes import call_in_process


@dataclass(frozen=True)
class Measurement:
    """A group of rows that is measured in one process."""

    name: str
    measure: Callable[[Setting], list[SpeedRow]]


@dataclass(frozen=True)
class Measured:
    """Rows of one measurement, or why it failed."""

    name: str
    rows: tuple[SpeedRow, ...]
    failure: str = ""
    """Traceback; empty if it succeeded."""


def list_measurements(sizes: Sizes) -> tuple[Measurement, ...]:
    """List all measurements in the order of the table."""
    return (
        Measurement("extraction, filterbank", filterbank_rows),
        Measurement("extraction, ViT", vit_rows),
        Measurement("extraction, given backbone", given_backbone_rows),
        *(
            Measurement(f"local step, D' = {dim}", partial(local_step_rows, dim=dim))
            for dim in sizes.feature_dims
        ),
        *(
            Measurement(f"local step, {name}", partial(objective_step_rows, objective=name))
            for name in STEP_PRODUCTS
            if name != "stego"
        ),
        Measurement("a round", round_rows),
        Measurement("small clients in one step", small_clients_rows),
        Measurement("aggregation", aggregation_rows),
        Measurement("k-means against scikit-learn", kmeans_rows),
        Measurement("nearest neighbors", neighbor_rows),
        Measurement("memory", memory_rows),
        Measurement("memory, given backbone", given_backbone_memory_rows),
        Measurement("evaluation", evaluation_rows),
        Measurement("start", start_rows),
    )


def run_measurements(
    measurements: tuple[Measurement, ...], setting: Setting
) -> Generator[Measured, None, None]:
    """Run the measurements one after another; one that fails does not stop the others.

    Args:
        measurements: Measurements to run, in this order.
        setting: Sizes, device and folder.

    Yields:
        The rows of each, or why it failed.
    """
    for measurement in measurements:
        try:
            rows = call_in_process(measurement.measure, setting)
        except Exception:
            yield Measured(measurement.name, (), traceback.format_exc().rstrip())
        else:
            yield Measured(measurement.name, tuple(rows))
