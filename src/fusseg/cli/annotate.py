"""The command `fusseg annotate`: convert predictions for labeling tools."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from fusseg.cli.progress import Display
from fusseg.core.errors import ConfigError, DataError, nearest_name
from fusseg.export.annotations.annotated_image import (
    AnnotatedImage,
    AnnotationOptions,
    Instances,
    NotWritten,
    Shapes,
    annotate_image,
)
from fusseg.export.annotations.coco import write_coco
from fusseg.export.annotations.cvat import write_cvat
from fusseg.export.annotations.label_studio import (
    IMAGE_PREFIX,
    configuration_file,
    write_label_studio,
)
from fusseg.export.annotations.labelme import write_labelme
from fusseg.export.annotations.predictions import Found, find_predictions, read_predictions

FORMATS = ("coco", "label-studio", "cvat", "labelme")


@dataclass(frozen=True)
class AnnotateOptions:
    """Options of `fusseg annotate`."""

    predictions: Path
    images: Path
    format: str
    out: Path
    regions: Path | None
    image_prefix: str | None
    how: AnnotationOptions


def choose_how(shapes: str, instances: str, tolerance: float, min_area: int) -> AnnotationOptions:
    """Check the options about shapes.

    Raises:
        ConfigError: If a word is unknown or a number is out of range.
    """
    for name, value, known in (
        ("--shapes", shapes, get_args(Shapes)),
        ("--instances", instances, get_args(Instances)),
    ):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}; {nearest_name(value, known)}")
    return AnnotationOptions(cast(Shapes, shapes), cast(Instances, instances), tolerance, min_area)


def run_annotate(options: AnnotateOptions) -> bool:
    """Write the annotations of all predictions, and print what was left out.

    Returns:
        False if an image was skipped.

    Raises:
        FussegError: If an option, a prediction or an image is wrong, or nothing can be written.
    """
    _check_format(options)
    found = find_predictions(options.predictions, options.images, options.regions)
    annotations = small = skipped = 0
    with Display() as display:
        for line in _doubts(found):
            display.line(line)
        try:
            for done, image in enumerate(_write(options, found), 1):
                if isinstance(image, NotWritten):
                    skipped += 1
                    display.line(f"skipped {image.name}: {image.reason}")
                    continue
                annotations += len(image.annotations)
                small += image.num_small
                display.advance("annotating", done, len(found.predictions), "images")
        except OSError as error:
            raise DataError(f"cannot write {options.out}: {error.strerror}") from error
        if found.num_without:
            display.line(f"images without a prediction, left out: {found.num_without}")
        if small:
            display.line(f"parts below {options.how.min_area} pixels, left out: {small}")
        written = len(found.predictions) - skipped
        display.line(f"{annotations} annotations of {written} images are in {options.out}")
        if options.format == "label-studio":
            display.line(f"labeling configuration: {configuration_file(options.out)}")
    return skipped == 0


def _doubts(found: Found) -> Iterator[str]:
    if not found.named:
        first = found.names.labels[0].name
        yield (
            f"no names beside the predictions, so regions are called {first!r} and so on; give "
            "--regions RUN_DIR/regions.toml"
        )
    for doubt in found.doubts:
        yield f"warning: {doubt}"


def _check_format(options: AnnotateOptions) -> None:
    if options.format not in FORMATS:
        raise ConfigError(
            f"unknown --format {options.format!r}; {nearest_name(options.format, FORMATS)}"
        )
    if options.image_prefix is not None and options.format != "label-studio":
        raise ConfigError(
            f"--image-prefix is for label-studio, got --format {options.format}; leave it out"
        )
    if options.format == "labelme":
        if options.out.exists() and not options.out.is_dir():
            raise ConfigError(f"--out must be a folder for labelme, got the file {options.out}")
        if options.out.resolve() == options.predictions.resolve():
            raise ConfigError(
                "--out must not be the folder of predictions, whose JSON would be overwritten, "
                f"got {options.out}; choose another"
            )
        return
    suffix = ".xml" if options.format == "cvat" else ".json"
    if options.out.suffix != suffix or options.out.is_dir():
        raise ConfigError(f"--out must be a file that ends in {suffix}, got {options.out}")


def _write(options: AnnotateOptions, found: Found) -> Iterator[AnnotatedImage | NotWritten]:
    out, labels, how = options.out, found.names.labels, options.how
    images = _annotated(found, how)
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.format == "coco":
        return write_coco(out, labels, images, how)
    if options.format == "cvat":
        return write_cvat(out, labels, images, how)
    if options.format == "labelme":
        return write_labelme(out, labels, images, how, options.images)
    prefix = IMAGE_PREFIX if options.image_prefix is None else options.image_prefix
    return write_label_studio(out, labels, images, how, prefix)


def _annotated(found: Found, how: AnnotationOptions) -> Iterator[AnnotatedImage]:
    for prediction, image in zip(found.predictions, read_predictions(found), strict=True):
        try:
            yield annotate_image(image, how)
        except DataError as error:
            raise DataError(f"{error}: {prediction.regions}") from error
