"""Read annotations with a format's own library, and write the masks it finds.

Run by the interpreter that has the libraries: FORMAT ANNOTATIONS IMAGES OUT. OUT becomes an .npz of
one map per image, pixel = label's place in the sorted names + 1, and 0 where nothing is.
"""

import json
import sys
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

SORTED_NAMES = sorted(json.loads(Path(sys.argv[3], "..", "names.json").read_text()))


def fill(points, shape):
    """Fill a polygon, given as x, y, x, y and so on, as pycocotools does."""
    code = coco_mask.frPyObjects([list(map(float, points))], *shape)
    return coco_mask.decode(code)[..., 0].astype(bool)


def paint(canvas, mask, name):
    """Add a mask to a map; parts must not overlap where they are exact."""
    canvas[mask] = SORTED_NAMES.index(name) + 1


def read_label_studio(path, _images):
    """Tasks and labeling configuration, checked by the SDK; brush codes read by its converter."""
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(path.with_suffix(".config.xml").read_text())
    interface.validate()
    for task in json.loads(path.read_text()):
        (prediction,) = task["predictions"]
        errors = interface.validate_prediction(prediction, return_errors=True)
        assert errors == [], errors
        canvas = None
        for result in prediction["result"]:
            shape = result["original_height"], result["original_width"]
            canvas = np.zeros(shape, np.uint8) if canvas is None else canvas
            value = result["value"]
            if result["type"] == "brushlabels":
                channels = decode_rle(value["rle"]).reshape(*shape, 4)
                assert (channels == channels[..., :1]).all()
                mask = channels[..., 3] == 255
            else:
                mask = fill((np.array(value["points"]) / 100 * shape[::-1]).ravel(), shape)
            paint(canvas, mask, value[result["type"]][0])
        yield task["data"]["image"].removeprefix("/data/local-files/?d="), canvas


def read_cvat(path, images):
    """Images and shapes as datumaro imports them."""
    from datumaro import Dataset
    from datumaro.components.annotation import AnnotationType

    (path.parent / "images").symlink_to(images.resolve())
    dataset = Dataset.import_from(str(path), "cvat")
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    assert sorted(names) == SORTED_NAMES
    for item in dataset:
        height, width = item.media.size
        canvas = np.zeros((height, width), np.uint8)
        for shape in item.annotations:
            polygon = shape.type == AnnotationType.polygon
            mask = fill(shape.points, (height, width)) if polygon else shape.image.astype(bool)
            paint(canvas, mask, names[shape.label])
        yield Path(item.media.path).relative_to(path.parent / "images").as_posix(), canvas


def read_labelme(folder, images):
    """Files and shapes as LabelMe opens and draws them."""
    from labelme._label_file import read_label_file
    from labelme.utils import shapes_to_label

    values = {name: place for place, name in enumerate(SORTED_NAMES, 1)}
    assert sorted((folder / "labels.txt").read_text().splitlines()) == SORTED_NAMES
    for path in folder.rglob("*.json"):
        data = read_label_file(str(path))
        content = json.loads(path.read_text())
        shape = content["imageHeight"], content["imageWidth"]
        image = (path.parent / data.image_path).resolve().relative_to(images.resolve())
        yield image.as_posix(), shapes_to_label(shape, data.shapes, values)[0].astype(np.uint8)


def main():
    """Read and write as the command line says."""
    kind, path, images, out = sys.argv[1], *map(Path, sys.argv[2:])
    readers = {"label-studio": read_label_studio, "cvat": read_cvat, "labelme": read_labelme}
    np.savez(out, **dict(readers[kind](path, images)))


main()
