"""Reading the results of `fusseg predict`: index PNGs, their descriptions, and names."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusseg.core.colors import palette
from fusseg.core.errors import DataError
from fusseg.data.decoding import decode, decoded_shape, read_file
from fusseg.data.images import SUFFIXES
from fusseg.export.annotations.annotated_image import Label, LabeledImage
from fusseg.export.annotations.origins import Prediction, check_origins
from fusseg.export.annotations.value_names import (
    MOST_LABELS,
    Names,
    names_from_file,
    names_from_list,
    numbered_names,
)


@dataclass(frozen=True)
class Found:
    """All predictions of a folder, and the meaning of their pixel values."""

    predictions: tuple[Prediction, ...]
    names: Names
    num_without: int
    """Number of images without a prediction."""
    named: bool
    """Whether the names are known; otherwise regions are called by their numbers."""
    doubts: tuple[str, ...]
    """What may be wrong with the predictions, one line each."""


def find_predictions(folder: Path, images: Path, names_file: Path | None) -> Found:
    """List predictions with their images, and find the names of the regions.

    Args:
        folder: Results of `fusseg predict`.
        images: The folder that was predicted.
        names_file: A `regions.toml`, used instead of the names beside the predictions.

    Raises:
        DataError: If a folder is missing or empty, a prediction has no image or several, an image
            is not the one that was predicted, or names are missing or disagree.
        ConfigError: If the names file is wrong.
    """
    for path, what in ((folder, "predictions"), (images, "images")):
        if not path.is_dir():
            fix = "it is a file; give the folder that holds it" if path.is_file() else "correct it"
            raise DataError(f"no such folder of {what}: {path}; {fix}")
    files = [path for path in _files_below(folder) if path.suffix == ".png"]
    if not files:
        raise DataError(f"no index PNG in {folder}; make some with fusseg predict")
    pictures = _images_by_place(images, folder)
    predictions = tuple(_match(path, folder, images, pictures) for path in files)
    names, named = _learn_names(predictions, names_file)
    doubts = check_origins(predictions)
    return Found(predictions, names, len(pictures) - len(predictions), named, doubts)


def read_predictions(found: Found) -> Iterator[LabeledImage]:
    """Read the predictions, one at a time.

    Raises:
        DataError: If a prediction cannot be read, is no index PNG, has another size than its
            image, or contains a value without a name.
    """
    for prediction in found.predictions:
        values = _read_values(prediction)
        places = found.names.places[values]
        if places.max() == found.names.unknown:
            value = int(values[places == found.names.unknown].min())
            raise DataError(
                f"value {value} has no name; known are {found.names.described}: "
                f"{prediction.regions}"
            )
        yield LabeledImage(prediction.name, places)


def _files_below(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]


def _images_by_place(images: Path, predictions: Path) -> dict[Path, list[Path]]:
    """List images by their path without suffix; predictions within the folder are left out."""
    inside = predictions.resolve() != images.resolve()
    found: dict[Path, list[Path]] = {}
    for path in _files_below(images):
        within = inside and path.resolve().is_relative_to(predictions.resolve())
        if path.suffix.lower() in SUFFIXES and not within:
            found.setdefault(path.relative_to(images).with_suffix(""), []).append(path)
    return found


def _match(path: Path, folder: Path, images: Path, pictures: dict[Path, list[Path]]) -> Prediction:
    place = path.relative_to(folder).with_suffix("")
    matching = [image for image in pictures.get(place, []) if image.resolve() != path.resolve()]
    if not matching:
        raise DataError(
            f"prediction {path} has no image {images / place} with one of {', '.join(SUFFIXES)}; "
            "--images must be the folder that was predicted"
        )
    if len(matching) > 1:
        raise DataError(
            f"prediction {path} has two images, {matching[0]} and {matching[1]}; rename one of "
            "them and predict it again"
        )
    name = matching[0].relative_to(images).as_posix()
    if not name.isprintable():
        raise DataError(f"name of an image must be printable, got {name!r}: {images}")
    return Prediction(name, matching[0], path)


def _learn_names(
    predictions: tuple[Prediction, ...], names_file: Path | None
) -> tuple[Names, bool]:
    if names_file is not None:
        return names_from_file(names_file), True
    # Unlike Path.exists, os.path.exists accepts names that are too long.
    described = [one.description for one in predictions if os.path.exists(one.description)]
    if not described:
        num = max(_num_colors(prediction.regions) for prediction in predictions)
        return numbered_names(palette(num)), False
    if len(described) < len(predictions):
        missing = next(one.description for one in predictions if one.description not in described)
        raise DataError(
            f"{missing} is missing, but other predictions have theirs; predict again, or give "
            "--regions"
        )
    labels: dict[int, Label] = {}
    for path in described:
        for index, label in _read_description(path).items():
            if labels.setdefault(index, label) != label:
                raise DataError(
                    f"region {index} is {label} here and {labels[index]} in another prediction; "
                    f"predict all with one model, or give --regions: {path}"
                )
    return names_from_list(labels), True


def _read_description(path: Path) -> dict[int, Label]:
    """Read the names of regions from a prediction's JSON.

    Raises:
        DataError: If it cannot be read or was not written by `fusseg predict`.
    """
    try:
        regions = json.loads(read_file(path, "description"))["regions"]
        return {_index(one["index"]): _label(one) for one in regions}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"description is not as fusseg predict writes it ({error!r}); predict again: {path}"
        ) from error


def _index(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 255:
        raise ValueError(f"index must be an integer in [0, 255], got {value!r}")
    return value


def _label(entry: dict[str, Any]) -> Label:
    name, color = entry["name"], bytes.fromhex(entry["color"].removeprefix("#"))
    if not isinstance(name, str) or not name.isprintable() or len(color) != 3:
        raise ValueError(f"name and color must be text and #rrggbb, got {name!r}, {entry['color']}")
    return Label(name, (color[0], color[1], color[2]))


def _num_colors(path: Path) -> int:
    """Count the regions of an index PNG by its colors, or by its largest value."""
    image = _decode_index(read_file(path, "prediction"), path)
    highest = int(np.asarray(image).max())
    if highest >= MOST_LABELS:
        raise DataError(
            f"without names, values are numbers of regions and at most {MOST_LABELS - 1}, got "
            f"{highest}; predict again, or correct it: {path}"
        )
    colors = (image.getpalette() if image.mode == "P" else None) or ()
    # Other programs pad a palette to 256 colors.
    return max(min(len(colors) // 3, MOST_LABELS), highest + 1)


def _read_values(prediction: Prediction) -> UInt8[np.ndarray, "height width"]:
    image = _decode_index(read_file(prediction.regions, "prediction"), prediction.regions)
    data = read_file(prediction.image, "image")
    height, width = decoded_shape(data, "image", prediction.image)
    if image.size != (width, height):
        raise DataError(
            f"prediction has {image.size[0]} x {image.size[1]} pixels, its image {width} x "
            f"{height}; predict it again, or give the images that were predicted: "
            f"{prediction.regions}"
        )
    return np.asarray(image)


def _decode_index(data: bytes, path: Path) -> Image.Image:
    image = decode(data, "prediction", path)
    if image.mode not in ("P", "L"):
        raise DataError(
            f"prediction must be an 8-bit PNG of indices, got color mode {image.mode}: {path}"
        )
    return image
