"""COCO JSON, the format of detection data sets and most tools."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fusseg.core.files import open_atomically
from fusseg.core.version import VERSION
from fusseg.export.annotations.annotated_image import (
    AnnotatedImage,
    Annotation,
    AnnotationOptions,
    Label,
)
from fusseg.export.annotations.outlines import bounding_box, whole_image
from fusseg.export.annotations.polygons import outline_part, polygon_area
from fusseg.export.annotations.rle import column_runs, compress_counts


def write_coco(
    path: Path,
    labels: Sequence[Label],
    images: Iterable[AnnotatedImage],
    options: AnnotationOptions,
) -> Iterator[AnnotatedImage]:
    """Write one JSON file, image by image.

    Categories, images and annotations are numbered from 1, categories in the order of the labels.

    Args:
        path: The file.
        labels: Names and colors.
        images: Images, read one at a time.
        options: Choice of polygons or compressed run-length codes.

    Yields:
        Each image when its annotations are written; the file appears after the last one.
    """
    head = {
        "info": {"description": f"regions found by fusseg {VERSION}", "version": "1.0"},
        "licenses": [],
        "categories": [
            {"id": number, "name": label.name, "supercategory": "", "color": list(label.color)}
            for number, label in enumerate(labels, 1)
        ],
    }
    entries: list[dict[str, Any]] = []
    written = 0
    with open_atomically(path) as file:
        file.write(_dump(head)[:-1] + b',\n"annotations": [')
        for image in images:
            entries.append(_describe(image, len(entries) + 1))
            for annotation in image.annotations:
                described = _annotation(image, annotation, options)
                numbers = {"id": written + 1, "image_id": len(entries)}
                file.write((b",\n" if written else b"\n") + _dump(numbers | described))
                written += 1
            yield image
        file.write(b'\n],\n"images": [\n' + b",\n".join(map(_dump, entries)) + b"\n]}\n")


def _describe(image: AnnotatedImage, number: int) -> dict[str, Any]:
    return {"id": number, "file_name": image.name, "width": image.width, "height": image.height}


def _annotation(
    image: AnnotatedImage, annotation: Annotation, options: AnnotationOptions
) -> dict[str, Any]:
    outlines, parts = image.outlines, annotation.parts
    box = bounding_box(outlines, parts)
    segmentation: Any
    area: float
    if options.shapes == "rle":
        counts = column_runs(outlines, parts, whole_image(outlines))
        size = [image.height, image.width]
        segmentation, area = {"size": size, "counts": compress_counts(counts)}, annotation.area
    else:
        polygons = [outline_part(outlines, part) for part in parts]
        segmentation = [polygon.ravel().tolist() for polygon in polygons]
        area = sum((polygon_area(polygon) for polygon in polygons), 0.0)
    return {
        "category_id": annotation.label + 1,
        "segmentation": segmentation,
        "area": area,
        "bbox": [box.left, box.top, box.width, box.height],
        "iscrowd": 0,
    }


def _dump(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
