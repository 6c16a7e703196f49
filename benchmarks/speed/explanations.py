"""Reasons for which rows may miss their targets; docs/speed.md has them at length."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Quantity = Literal["ratio", "seconds", "peak_bytes"]


@dataclass(frozen=True)
class Explanation:
    """Why a row misses its target, and by how much it may."""

    text: str
    up_to: float | int
    """Beyond this value the row is short in spite of the reason."""


_FIXED_PAIRS = (
    "pairs of 121 x 121 positions are centered and weighed in float32 whatever D' is, and the "
    "products shrink with D'"
)
_FLOAT32_SUMS = (
    "the products are about four times as fast, and what lies between them stays in float32: "
    "cosines, losses, Adam; " + _FIXED_PAIRS
)
_DECODING = (
    "decoding, hashing and writing take processor time of their own beside a light backbone, "
    "which hides only where another core is free"
)
_BOOKKEEPING = (
    "names, paths and digests take 1.6 KB an image at most, on top of 160 MB that importing takes"
)

Explanations = Mapping[tuple[str, str], Explanation]
EXPLANATIONS: Explanations = {
    ("a round, server side", "quick"): Explanation(
        "a quick round has few steps, and the server's work does not grow with them", up_to=0.05
    ),
    ("extraction, filterbank", "cpu"): Explanation(_DECODING, up_to=1.8),
    ("extraction, given backbone, float32", "cpu"): Explanation(_DECODING, up_to=1.5),
    ("local step, D' = 384, float32", "cpu"): Explanation(_FIXED_PAIRS, up_to=1.6),
    ("local step, D' = 256, float32", "cpu"): Explanation(_FIXED_PAIRS, up_to=1.7),
    ("local step, D' = 144, float32", "cpu"): Explanation(_FIXED_PAIRS, up_to=1.8),
    ("local step, D' = 768, bfloat16", "cpu"): Explanation(_FLOAT32_SUMS, up_to=2.2),
    ("local step, D' = 384, bfloat16", "cpu"): Explanation(_FLOAT32_SUMS, up_to=3.0),
    ("local step, D' = 256, bfloat16", "cpu"): Explanation(_FLOAT32_SUMS, up_to=3.5),
    ("local step, D' = 144, bfloat16", "cpu"): Explanation(_FLOAT32_SUMS, up_to=4.0),
    ("aggregation, fedcc-kmeans, noise", "full"): Explanation(
        "k-means finds no clusters in noise and takes many iterations, as scikit-learn's does",
        up_to=5.0,
    ),
    ("aggregation, consensus, linear in clients", "full"): Explanation(
        "the number of iterations until nothing changes depends on the points", up_to=1.8
    ),
    ("aggregation, pca", "full"): Explanation(
        "the target is about centroids; moments of 768 channels take 2.5 ms when they arrive",
        up_to=6.0,
    ),
    ("aggregation, heads of any strategy", "full"): Explanation(
        "the target is about centroids; a head takes 2.6 ms when it arrives", up_to=6.0
    ),
    ("memory, extraction", "full"): Explanation(_BOOKKEEPING, up_to=1.4),
    ("memory, training", "full"): Explanation(
        "the search for nearest neighbors works in blocks of at most 64 MiB, which 200 images do "
        "not fill; " + _BOOKKEEPING,
        up_to=1.6,
    ),
    ("memory, evaluation", "full"): Explanation(_BOOKKEEPING, up_to=1.3),
}
"""By name of the row and condition: the device (`cpu`, `cuda`) or the sizes (`full`, `quick`)."""
