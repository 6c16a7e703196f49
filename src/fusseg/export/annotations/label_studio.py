"""Label Studio: tasks with predictions, and the labeling configuration of their project."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Int, UInt8

from fusseg.core.files import open_atomically, write_atomically
from fusseg.core.version import VERSION
from fusseg.export.annotations.annotated_image import (
    AnnotatedImage,
    Annotation,
    AnnotationOptions,
    Label,
    Shapes,
)
from fusseg.export.annotations.outlines import whole_image
from fusseg.export.annotations.polygons import outline_part
from fusseg.export.annotations.rle import Counts, row_runs
from fusseg.runs.regions import hex_color

IMAGE_PREFIX = "/data/local-files/?d="
"""Prefix of Label Studio for paths below its LOCAL_FILES_DOCUMENT_ROOT."""

_CHANNELS = 4
_WORD = 8
_SIZES = np.array([3, 4, 8, 16])
"""Numbers of bits in which the length of a run may be written."""
_LONGEST = 2**16
_PIECE = 2**16
_KINDS: dict[Shapes, tuple[str, str]] = {
    "polygons": ("PolygonLabels", "polygonlabels"),
    "rle": ("BrushLabels", "brushlabels"),
}


def write_label_studio(
    path: Path,
    labels: Sequence[Label],
    images: Iterable[AnnotatedImage],
    options: AnnotationOptions,
    prefix: str = IMAGE_PREFIX,
) -> Iterator[AnnotatedImage]:
    """Write one JSON file of tasks, and beside it the labeling configuration as XML.

    Args:
        path: The file of tasks.
        labels: Names and colors.
        images: Images, read one at a time.
        options: Choice of polygons or brush masks.
        prefix: Prefix of an image's path in its URL.

    Yields:
        Each image when its task is written; the file appears after the last one.
    """
    write_atomically(configuration_file(path), labeling_configuration(labels, options).encode())
    with open_atomically(path) as file:
        file.write(b"[")
        for number, image in enumerate(images):
            file.write((b",\n" if number else b"\n") + _task_head(image, prefix).encode())
            # One by one, because each mask is as large as its image: all of them may be gigabytes.
            for place, result in enumerate(_results(image, labels, options.shapes)):
                text = json.dumps(result, ensure_ascii=False)
                file.write((b",\n" if place else b"\n") + text.encode())
            file.write(b"\n]}]}")
            yield image
        file.write(b"\n]\n")


def configuration_file(path: Path) -> Path:
    """Return the path of the labeling configuration of a file of tasks."""
    return path.with_suffix(".config.xml")


def labeling_configuration(labels: Sequence[Label], options: AnnotationOptions) -> str:
    """Write the labeling configuration of a project for the predictions."""
    tag, _ = _KINDS[options.shapes]
    lines = [
        f"    <Label value={quoteattr(label.name)} background={quoteattr(hex_color(label.color))}/>"
        for label in labels
    ]
    return "\n".join(
        [
            "<View>",
            '  <Image name="image" value="$image" zoom="true"/>',
            f'  <{tag} name="label" toName="image">',
            *lines,
            f"  </{tag}>",
            "</View>",
            "",
        ]
    )


def pack_runs(counts: Counts) -> UInt8[np.ndarray, " bytes"]:
    """Write runs as Label Studio's brush code: four equal channels, 0 off the mask and 255 on it.

    Args:
        counts: Lengths of the runs, row by row, off first.
    """
    values = np.where(np.arange(len(counts)) % 2 == 1, 255, 0)[counts > 0]
    lengths = counts[counts > 0] * _CHANNELS
    pieces = -(-lengths // _LONGEST)
    last = np.cumsum(pieces) - 1
    cut = np.full(int(pieces.sum()), _LONGEST)
    cut[last] = lengths - (pieces - 1) * _LONGEST
    size = np.searchsorted(_SIZES, _bit_lengths(cut - 1))
    bits = _SIZES[size]
    # One bit "repeated", two bits for the size of the length, the length minus one, the value.
    code = ((4 | size) << bits | (cut - 1)) << _WORD | np.repeat(values, pieces)
    head = np.array([int(lengths.sum()), _WORD - 1, *(_SIZES - 1)])
    return _pack(
        np.concatenate([head, code]), np.concatenate([[32, 5, 4, 4, 4, 4], 3 + bits + _WORD])
    )


def _bit_lengths(numbers: Int[np.ndarray, " numbers"]) -> Int[np.ndarray, " numbers"]:
    return np.searchsorted(2 ** np.arange(17), numbers, side="right")


def _pack(
    numbers: Int[np.ndarray, " numbers"], sizes: Int[np.ndarray, " numbers"]
) -> UInt8[np.ndarray, " bytes"]:
    """Write numbers one after the other, each in a given number of bits, highest bit first."""
    bits = []
    # In pieces, because each bit takes many bytes on the way.
    for begin in range(0, len(numbers), _PIECE):
        some, size = numbers[begin : begin + _PIECE], sizes[begin : begin + _PIECE]
        ends = np.cumsum(size)
        below = np.repeat(ends, size) - 1 - np.arange(ends[-1])
        bits.append((np.repeat(some, size) >> below & 1).astype(np.uint8))
    return np.packbits(np.concatenate(bits))


def _task_head(image: AnnotatedImage, prefix: str) -> str:
    """Write the beginning of a task, up to its results."""
    address, version = json.dumps(prefix + quote(image.name)), json.dumps(f"fusseg {VERSION}")
    return (
        f'{{"data": {{"image": {address}}}, '
        f'"predictions": [{{"model_version": {version}, "result": ['
    )


def _results(
    image: AnnotatedImage, labels: Sequence[Label], shapes: Shapes
) -> Iterator[dict[str, Any]]:
    _, kind = _KINDS[shapes]
    number = 0
    for annotation in image.annotations:
        for value in _values(image, annotation, labels[annotation.label].name, shapes):
            number += 1
            yield {
                "id": f"region-{number}",
                "type": kind,
                "from_name": "label",
                "to_name": "image",
                "original_width": image.width,
                "original_height": image.height,
                "image_rotation": 0,
                "value": value,
            }


def _values(
    image: AnnotatedImage, annotation: Annotation, name: str, shapes: Shapes
) -> Iterator[dict[str, Any]]:
    """Give the one mask of an annotation, or one polygon per part."""
    outlines = image.outlines
    _, kind = _KINDS[shapes]
    if shapes == "rle":
        runs = row_runs(outlines, annotation.parts, whole_image(outlines))
        yield {"format": "rle", "rle": pack_runs(runs).tolist(), kind: [name]}
        return
    for part in annotation.parts:
        percent = outline_part(outlines, part) * 100 / np.array([image.width, image.height])
        yield {"points": percent.round(6).tolist(), "closed": True, kind: [name]}
