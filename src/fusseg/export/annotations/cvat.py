"""CVAT for images 1.1: one XML file of polygons or masks."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from fusseg.core.files import open_atomically
from fusseg.export.annotations.annotated_image import (
    AnnotatedImage,
    Annotation,
    AnnotationOptions,
    Label,
    Shapes,
)
from fusseg.export.annotations.outlines import bounding_box
from fusseg.export.annotations.polygons import outline_part
from fusseg.export.annotations.rle import row_runs
from fusseg.runs.regions import hex_color

_KINDS: dict[Shapes, str] = {"polygons": "polygon", "rle": "mask"}


def write_cvat(
    path: Path,
    labels: Sequence[Label],
    images: Iterable[AnnotatedImage],
    options: AnnotationOptions,
) -> Iterator[AnnotatedImage]:
    """Write one XML file, image by image.

    Args:
        path: The file.
        labels: Names and colors.
        images: Images, read one at a time.
        options: Choice of polygons or masks. Polygons of one annotation share a group.

    Yields:
        Each image when its shapes are written; the file appears after the last one.
    """
    with open_atomically(path) as file:
        file.write(_head(labels, options).encode())
        for number, image in enumerate(images):
            size = {"width": image.width, "height": image.height}
            lines = [f"  <image{_attributes({'id': number, 'name': image.name} | size)}>"]
            for group, annotation in enumerate(image.annotations, 1):
                name = labels[annotation.label].name
                lines += _shapes(image, annotation, name, group, options.shapes)
            file.write("\n".join([*lines, "  </image>", ""]).encode())
            yield image
        file.write(b"</annotations>\n")


def _head(labels: Sequence[Label], options: AnnotationOptions) -> str:
    kind = _KINDS[options.shapes]
    entries = [
        f"<label><name>{escape(label.name)}</name><color>{hex_color(label.color)}</color>"
        f"<type>{kind}</type><attributes></attributes></label>"
        for label in labels
    ]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            "<annotations>",
            "  <version>1.1</version>",
            "  <meta><task><labels>",
            *(f"    {entry}" for entry in entries),
            "  </labels></task></meta>",
            "",
        ]
    )


def _shapes(
    image: AnnotatedImage, annotation: Annotation, name: str, group: int, shapes: Shapes
) -> Iterator[str]:
    common = {"label": name, "source": "auto", "occluded": 0}
    if shapes == "rle":
        box = bounding_box(image.outlines, annotation.parts)
        runs = ", ".join(map(str, row_runs(image.outlines, annotation.parts, box).tolist()))
        place = {"left": box.left, "top": box.top, "width": box.width, "height": box.height}
        yield f"    <mask{_attributes(common | {'rle': runs} | place | {'z_order': 0})}></mask>"
        return
    grouped = {"group_id": group} if len(annotation.parts) > 1 else {}
    for part in annotation.parts:
        points = ";".join(f"{x},{y}" for x, y in outline_part(image.outlines, part).tolist())
        attributes = common | {"points": points, "z_order": 0} | grouped
        yield f"    <polygon{_attributes(attributes)}></polygon>"


def _attributes(values: dict[str, object]) -> str:
    return "".join(f" {name}={quoteattr(str(value))}" for name, value in values.items())
