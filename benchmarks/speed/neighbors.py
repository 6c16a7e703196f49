"""Rows about nearest neighbors: time compared with the product of all vectors, and memory."""

import torch

from benchmarks.speed.inputs import random_codes
from benchmarks.speed.memory_meter import anonymous_bytes
from benchmarks.speed.products import Product, product_rate
from benchmarks.speed.rows import Figures, Limit, SpeedRow, missing_row, speed_row
from benchmarks.speed.sizes import Setting
from benchmarks.speed.timing import time_alternately
from fusseg.features.neighbors import nearest_neighbors
from fusseg.segmentation.objectives.stego import StegoSettings

TIME, BUDGET = Limit("ratio", 1.5), Limit("peak_bytes", 2**30, says="at most 1 GiB")
_CHUNK = 1024
"""Rows of one product of the floor."""


def neighbor_rows(setting: Setting) -> list[SpeedRow]:
    """Measure the search of nearest neighbors, on the processor in float32."""
    sizes = setting.sizes
    images, dim = sizes.neighbor_images, sizes.neighbor_dim
    pooled = random_codes((images, dim))
    number = StegoSettings().neighbors
    before = anonymous_bytes()

    def all_with_all() -> None:
        out = torch.empty(min(_CHUNK, images), images)
        for start in range(0, images, _CHUNK):
            rows = pooled[start : start + _CHUNK]
            torch.matmul(rows, pooled.T, out=out[: len(rows)])

    # One call is long enough to need no warm-up.
    stage, floor = time_alternately(
        [lambda: nearest_neighbors(pooled, number), all_with_all],
        sizes.neighbor_repeats,
        warm_up=False,
    )
    size = f"{images} pooled vectors x {dim}, {number} neighbors, float32"
    conditions = (sizes.name,)
    figures = Figures(
        stage.seconds,
        floor.seconds,
        peak_bytes=stage.peak_bytes,
        gflop=Product(images, dim, images).gflop,
        gflop_per_second=product_rate(torch.float32, torch.device("cpu"), sizes.repeats),
    )
    rows = [speed_row("nearest neighbors", size, figures, TIME, "", conditions)]
    name = "nearest neighbors, memory"
    if before is None or stage.peak_bytes is None:
        rows.append(missing_row(name, size, BUDGET, "needs /proc of Linux"))
        return rows
    more = Figures(peak_bytes=stage.peak_bytes - before)
    rows.append(speed_row(name, size, more, BUDGET, "memory beyond the vectors", conditions))
    return rows
