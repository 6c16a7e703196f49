"""Comparing an exported graph with its model on images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from fusseg.core.errors import DataError, first_line
from fusseg.data.images import fit_image
from fusseg.runs.load import TrainedRun
from fusseg.segmentation.assignment import Segmenter, encode, largest_of_regions, similarities

Pixels = UInt8[np.ndarray, "_ _ 3"]
Regions = UInt8[np.ndarray, "_ _"]


@dataclass(frozen=True)
class Parity:
    """How closely the graph agrees with the model."""

    images: int
    """Number of images that were compared."""
    equal_pixels: float
    """Share of all pixels that have the same region, in [0, 1]."""
    worst_image: float
    """Smallest such share of one image, in [0, 1]."""
    largest_difference: float
    """Largest difference of the similarities, relative to the largest similarity."""
    same_in_a_batch: bool
    """Whether two images in one batch get the same regions as each alone."""


class Graph:
    """An exported graph in onnxruntime, on the CPU."""

    def __init__(self, content: bytes) -> None:
        """Load the graph.

        Raises:
            DataError: If onnxruntime refuses it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no base class
            raise DataError(f"onnxruntime refuses the exported graph: {error}") from error

    def run(
        self, images: UInt8[np.ndarray, "batch height width 3"]
    ) -> tuple[
        UInt8[np.ndarray, "batch height width"], Float32[np.ndarray, "batch regions rows columns"]
    ]:
        """Compute regions and similarities.

        Raises:
            DataError: If the graph fails on images of this size.
        """
        try:
            regions, scores = self._session.run(None, {"image": images})
        except Exception as error:  # onnxruntime's errors share no base class
            raise DataError(
                f"the exported graph fails on images of shape {images.shape} and is not written: "
                f"torch cannot export this backbone; use fusseg pack to take the model to other "
                f"machines (onnxruntime: {first_line(error)})"
            ) from error
        return regions, scores


def measure_parity(
    graph: Graph, run: TrainedRun, segmenter: Segmenter, pairs: Sequence[tuple[Pixels, Regions]]
) -> Parity:
    """Compare a graph with the model that it was exported from.

    Args:
        graph: The exported graph.
        run: The run, for its backbone and training size.
        segmenter: The model that was exported.
        pairs: Images, each with the model's regions.

    Raises:
        DataError: If the graph fails on an image.
    """
    shares, differences = [], []
    for image, expected in pairs:
        regions, scores = graph.run(image[None])
        shares.append((float((regions[0] == expected).mean()), expected.size))
        differences.append(_difference(scores[0], image, run, segmenter))
    image = pairs[0][0]
    alone = [graph.run(part[None])[0][0] for part in (image, image[::-1])]
    together, _ = graph.run(np.stack([image, image[::-1]]))
    return Parity(
        images=len(pairs),
        equal_pixels=sum(share * size for share, size in shares) / sum(size for _, size in shares),
        worst_image=min(share for share, _ in shares),
        largest_difference=max(differences),
        same_in_a_batch=all(map(np.array_equal, together, alone)),
    )


@torch.inference_mode()
def _difference(
    scores: Float32[np.ndarray, "regions rows columns"],
    image: Pixels,
    run: TrainedRun,
    segmenter: Segmenter,
) -> float:
    """Compare similarities with those that torch computes for the same positions."""
    rows, columns = scores.shape[1:]
    size = (rows * run.backbone.stride, columns * run.backbone.stride)
    seen = fit_image(image, size, "stretch", run.config.data.interpolation)
    features = run.backbone.extract(torch.from_numpy(seen)[None])[0].permute(1, 2, 0)
    found = similarities(segmenter, encode(segmenter, features.half().float()))
    if segmenter.classifier is None:
        expected = largest_of_regions(segmenter, found, dim=0).numpy()
    else:
        expected = found[: segmenter.classifier.num_classes].numpy()
    return float(np.abs(scores - expected).max() / np.abs(expected).max())
