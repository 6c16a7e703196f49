"""LabelMe: one JSON file for each image."""

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fusseg.core.files import UnwritableError, blaming, write_atomically
from fusseg.export.annotations.annotated_image import (
    AnnotatedImage,
    Annotation,
    AnnotationOptions,
    Label,
    NotWritten,
    Shapes,
)
from fusseg.export.annotations.outlines import bounding_box
from fusseg.export.annotations.polygons import outline_part
from fusseg.export.annotations.rle import fill_runs, row_runs

_FORMAT = "5.5.0"
"""Version of LabelMe that has the fields that are written; later versions read them too."""


def write_labelme(
    folder: Path,
    labels: Sequence[Label],
    images: Iterable[AnnotatedImage],
    options: AnnotationOptions,
    image_folder: Path,
) -> Iterator[AnnotatedImage | NotWritten]:
    """Write a JSON file for each image, in the folders of the images, and all names to labels.txt.

    Args:
        folder: Folder of the results.
        labels: Names; LabelMe chooses its own colors.
        images: Images, read one at a time.
        options: Choice of polygons or masks. Polygons of one annotation share a group.
        image_folder: Folder of the images; the files contain paths to them, not their pixels.

    Yields:
        Each image when its file is written, or the reason why it cannot be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = "".join(f"{label.name}\n" for label in labels)
    write_atomically(folder / "labels.txt", names.encode())
    for image in images:
        path = (folder / image.name).with_suffix(".json")
        way = os.path.relpath((image_folder / image.name).resolve(), path.parent.resolve())
        shapes = [
            shape
            for group, annotation in enumerate(image.annotations, 1)
            for shape in _shapes(
                image, annotation, labels[annotation.label].name, group, options.shapes
            )
        ]
        content: dict[str, Any] = {
            "version": _FORMAT,
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(way).as_posix(),
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        try:
            with blaming([path]):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1).encode())
        except UnwritableError as error:
            yield NotWritten(image.name, str(error))
            continue
        yield image


def _shapes(
    image: AnnotatedImage, annotation: Annotation, name: str, group: int, shapes: Shapes
) -> Iterator[dict[str, Any]]:
    common: dict[str, Any] = {"label": name, "description": "", "flags": {}}
    if shapes == "rle":
        box = bounding_box(image.outlines, annotation.parts)
        runs = row_runs(image.outlines, annotation.parts, box)
        # LabelMe's corners are the first and the last pixel.
        last = [box.left + box.width - 1, box.top + box.height - 1]
        content = io.BytesIO()
        Image.fromarray(fill_runs(runs).reshape(box.height, box.width)).save(content, "PNG")
        mask = base64.b64encode(content.getvalue()).decode("ascii")
        points = [[box.left, box.top], last]
        yield common | {"points": points, "group_id": None, "shape_type": "mask", "mask": mask}
        return
    number = group if len(annotation.parts) > 1 else None
    for part in annotation.parts:
        points = outline_part(image.outlines, part).tolist()
        yield common | {"points": points, "group_id": number, "shape_type": "polygon", "mask": None}
