"""The command `fusseg export`: an ONNX graph that is compared with the model before it is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fusseg.config.compute import EXACT
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.spread import spread_evenly
from fusseg.core.visible_text import say
from fusseg.data.images import Decoding, decoding_of, load_image
from fusseg.data.items import Item
from fusseg.data.layouts import open_dataset
from fusseg.data.selection import select_held_out
from fusseg.export.artifact import Artifact, describe_backbone, describe_classes
from fusseg.export.onnx.onnx_model import build_onnx, save_onnx
from fusseg.export.onnx.parity import Graph, Parity, Pixels, measure_parity
from fusseg.export.packing import pack_run
from fusseg.prediction.segmenter import segment_image
from fusseg.prediction.sources import find_images
from fusseg.prediction.viewing import MAX_AREA
from fusseg.runs.directory import read_run_config
from fusseg.runs.load import load_run, pick_answering

MOST_IMAGES = 8
"""Largest number of images to compare on."""
LEAST_EQUAL = 0.995
"""Smallest share of an image's pixels that must have the same region."""
MOST_DIFFERENCE = 0.02
"""Largest difference between similarities, relative to the largest similarity. Rounding features to
float16 causes as much if two sums fall on either side of a rounding boundary."""


def run_export(
    run_dir: Path,
    out: Path,
    images: Sequence[Path],
    site: str | None,
    *,
    regions: bool = False,
    force: bool,
) -> bool:
    """Export a model, compare the graph with it, and keep the graph if they agree.

    Args:
        run_dir: Run directory.
        out: File to write.
        images: Images or folders to compare on; empty: the run's held-out images.
        site: Site that the model belongs to, if each site has its own.
        regions: Use label-free regions, though labels taught the model classes.
        force: Keep the file even if the two differ.

    Returns:
        False if the two differ and the file was not kept.

    Raises:
        ConfigError: If there is no image to compare on, or the model cannot be exported.
        DataError: If the graph fails, or a file cannot be read or written.
    """
    if out.suffix != ".onnx":
        raise ConfigError(f"an ONNX file is named *.onnx, got --out {out}")
    decoding = decoding_of(read_run_config(run_dir).data)
    # Before the export, which takes a while.
    pictures = _load_pictures(_compared(run_dir, images), decoding)
    pictures.append(_another_shape(pictures[0]))
    # The graph computes in float32, whatever precision the run had.
    run = load_run(run_dir, EXACT)
    segmenter = pick_answering(run, site, regions=regions)
    say("exporting (up to a minute)")
    artifact = pack_run(run, run_dir, site, regions=regions)
    model = build_onnx(run, segmenter, MAX_AREA, _metadata(artifact))
    pairs = [(picture, segment_image(picture, run, segmenter)) for picture in pictures]
    parity = measure_parity(Graph(model.SerializeToString()), run, segmenter, pairs)
    say(_describe(parity))
    if not _agrees(parity) and not force:
        say(f"the graph differs from the model, so {out} is not written; --force writes it anyway")
        return False
    save_onnx(out, model)
    say(f"{out}: {out.stat().st_size:,} bytes")
    return True


def _compared(run_dir: Path, images: Sequence[Path]) -> list[Item]:
    if images:
        paths = [path for path, _ in find_images(images)]
        items = [Item(site="", stem=path.stem, split="", image=path) for path in paths]
        return spread_evenly(items, MOST_IMAGES)
    data = read_run_config(run_dir).data
    held_out = select_held_out(open_dataset(data), data)
    if not held_out:
        raise ConfigError("the run has no held-out images to compare on; give some with --images")
    return spread_evenly(held_out, MOST_IMAGES)


def _load_pictures(items: Sequence[Item], decoding: Decoding) -> list[Pixels]:
    """Load the images to compare on; name and skip those that cannot be read."""
    pictures = []
    for item in items:
        try:
            pictures.append(load_image(item, decoding))
        except DataError as error:
            say(f"skipped {item.image}: {error}")
    if not pictures:
        raise DataError("none of the images to compare on can be read; give others with --images")
    return pictures


def _another_shape(picture: Pixels) -> Pixels:
    """Cut out a corner, so that the compared images do not all have the same shape."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(picture[: max(1, 3 * height // 5), : max(1, 4 * width // 5)])


def _metadata(artifact: Artifact) -> Mapping[str, object]:
    clusters = artifact.clusters
    return {
        "backbone": describe_backbone(artifact.backbone),
        "clusters": clusters and [asdict(cluster) for cluster in clusters],
        "classes": describe_classes(artifact.classes),
        "training": artifact.training,
        "white_level": artifact.data.white_level,
        "alpha_channel": artifact.data.alpha_channel,
    }


def _describe(parity: Parity) -> str:
    batch = "the same" if parity.same_in_a_batch else "OTHER"
    return (
        f"compared with the model on {parity.images} images (the last is a corner of the first):\n"
        f"  pixels with the same region: {100 * parity.equal_pixels:.4f} %, in the worst image "
        f"{100 * parity.worst_image:.4f} %\n"
        f"  largest difference of the similarities: {parity.largest_difference:.2e} of the "
        f"largest\n  two images at once give {batch} regions as each alone"
    )


def _agrees(parity: Parity) -> bool:
    return (
        parity.worst_image >= LEAST_EQUAL
        and parity.largest_difference <= MOST_DIFFERENCE
        and parity.same_in_a_batch
    )
