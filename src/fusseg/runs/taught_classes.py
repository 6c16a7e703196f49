"""The classes that labels taught: their names and colors, and their scores on held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w
import torch
from jaxtyping import Int
from torch import Tensor

from fusseg.core.colors import palette
from fusseg.core.errors import ConfigError, DataError
from fusseg.core.files import write_atomically
from fusseg.data.class_file import read_classes
from fusseg.data.items import Classes
from fusseg.evaluation.held_out import HeldOut, read_labels, segment_held_out
from fusseg.evaluation.scores import UNMATCHED, count_pixels, iou_by_name, score
from fusseg.federation.state import GlobalState, Taught
from fusseg.runs.record_form import TaughtEntry, TaughtScores
from fusseg.runs.regions import Color, Region, Regions
from fusseg.segmentation.assignment import Segmenter, build_segmenter, with_classes
from fusseg.segmentation.classifier import Classifier

CLASSES = "classes.toml"
"""Names and colors of the taught classes in the run directory."""


def describe_taught(state: GlobalState, shown: HeldOut | None) -> TaughtEntry | None:
    """Describe what was taught, scored by class on held-out images; None if nothing was asked.

    Args:
        state: State after teaching.
        shown: Labeled images that did not teach; None: there are none.
    """
    taught = state.taught
    if taught is None:
        return None
    entry: TaughtEntry = {
        "mean_iou": None,
        "pixel_accuracy": None,
        "per_class_iou": None,
        "unknown_share": None,
        "num_labeled_images": taught.num_images,
        "positions_per_class": dict(zip(taught.names, taught.positions, strict=True)),
        "lacking": list(taught.lacking),
        "shrinkage": taught.chosen.shrinkage,
        "temperature": taught.chosen.temperature,
        "left_out_mean_iou": taught.chosen.mean_iou,
    }
    if taught.classifier is None or shown is None or shown.classes is None:
        return entry
    model = build_segmenter(state.model, state.plan.mean_feature)
    segmenter = with_classes(model, taught.classifier)
    return {**entry, **score_classes(segmenter, taught.names, shown)}


def score_classes(segmenter: Segmenter, taught: Sequence[str], shown: HeldOut) -> TaughtScores:
    """Score a segmenter with classes: each class counts as the labels' class of its name.

    Unknown pixels, and those of classes that the labels do not have, are wrong. A class of the
    labels that was not taught has an IoU of 0.

    Args:
        segmenter: The segmenter.
        taught: Names of its classes.
        shown: Labeled images.
    """
    assert shown.classes is not None
    names = shown.classes.names
    confusion = torch.zeros(segmenter.num_regions, len(names), dtype=torch.int64)
    for index in range(len(shown.views)):
        labels = read_labels(shown, index)
        if labels is not None:
            found = segment_held_out(segmenter, shown, index)
            confusion += count_pixels(found, labels, segmenter.num_regions, len(names))
    if not bool(confusion.any()):
        return {
            "mean_iou": None,
            "pixel_accuracy": None,
            "per_class_iou": None,
            "unknown_share": None,
        }
    scores = score(confusion, _match_names(taught, segmenter.num_regions, names))
    return {
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "per_class_iou": iou_by_name(scores, names),
        "unknown_share": float(confusion[len(taught) :].sum() / confusion.sum()),
    }


def _match_names(
    taught: Sequence[str], num_regions: int, names: Sequence[str]
) -> Int[Tensor, " regions"]:
    index_of = {name: index for index, name in enumerate(names)}
    matching = [index_of.get(name, UNMATCHED) for name in taught]
    return torch.tensor(matching + [UNMATCHED] * (num_regions - len(taught)))


def write_class_colors(run_dir: Path, taught: Taught, known: Sequence[Classes | None]) -> None:
    """Write names and colors of the taught classes, so that colors can be changed.

    Args:
        run_dir: Run directory.
        taught: The classes.
        known: Classes of labels; a class takes the color of the first that has one for its name.

    Raises:
        DataError: If the file cannot be written.
    """
    given: dict[str, Color] = {}
    for classes in reversed(known):
        if classes is not None and classes.colors is not None:
            given |= dict(zip(classes.names, classes.colors, strict=True))
    chosen = [
        list(given.get(name, color))
        for name, color in zip(taught.names, palette(len(taught.names)).tolist(), strict=True)
    ]
    table = {"names": list(taught.names), "colors": chosen}
    try:
        write_atomically(run_dir / CLASSES, tomli_w.dumps(table).encode())
    except OSError as error:
        raise DataError(f"cannot write {run_dir / CLASSES}: {error.strerror}") from error


@dataclass(frozen=True)
class NamedClassifier:
    """A classifier with the names and colors of its classes."""

    classifier: Classifier
    names: tuple[str, ...]
    colors: tuple[Color, ...]


def name_classifier(run_dir: Path, taught: Taught | None) -> NamedClassifier | None:
    """Give taught classes their colors; None if nothing was taught.

    Raises:
        ConfigError: If the run's `classes.toml` names other classes.
        DataError: If it is invalid.
    """
    if taught is None or taught.classifier is None:
        return None
    return NamedClassifier(taught.classifier, taught.names, class_colors(run_dir, taught))


def class_colors(run_dir: Path, taught: Taught) -> tuple[Color, ...]:
    """Read the colors of the taught classes; without a file they are those of a palette.

    Raises:
        ConfigError: If the file names other classes.
        DataError: If it is invalid.
    """
    path = run_dir / CLASSES
    if not path.exists():
        rows = palette(len(taught.names)).tolist()
        return tuple((red, green, blue) for red, green, blue in rows)
    known = read_classes(path)
    if known.names != taught.names or known.colors is None:
        raise ConfigError(
            f"{path} must give a color to each of the taught classes, {', '.join(taught.names)}, "
            f"in this order, got {', '.join(known.names)}; correct it, or delete it"
        )
    return known.colors


def regions_of_classes(
    names: Sequence[str], colors: Sequence[Color], own: Regions | None
) -> Regions:
    """Name the labels of a segmenter with classes.

    >>> found = regions_of_classes(["road", "sky"], [(9, 9, 9), (0, 0, 255)], None)
    >>> found.names
    ('road', 'sky')

    Args:
        names: Names of the classes.
        colors: Their colors.
        own: Regions of the clusters, for unknown pixels; None: no pixel is unknown.
    """
    classes = tuple(
        Region(index, name, color, (index,))
        for index, (name, color) in enumerate(zip(names, colors, strict=True))
    )
    number = len(classes)
    unknown = tuple(
        Region(
            number + region.index,
            f"unknown: {region.name}",
            region.color,
            tuple(number + cluster for cluster in region.clusters),
        )
        for region in (() if own is None else own.regions)
    )
    return Regions(classes + unknown)
