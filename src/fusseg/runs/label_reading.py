"""The one module of teaching that reads masks: the classes of positions, for `LabeledFeatures`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from fusseg.core.errors import DataError
from fusseg.data.clicks import Click, classes_of_clicks, pixels_of_clicks
from fusseg.data.image_lists import pick_listed
from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.label_grid import Grid, LabeledPixels, label_positions, pixels_of_mask
from fusseg.data.masks import infer_classes, load_mask
from fusseg.features.extraction import SiteFeatures
from fusseg.features.labeled_features import LabeledFeatures
from fusseg.features.views import View

UNLABELED = 255
"""Value of pixels without a label in a partial mask."""
PixelReader = Callable[[Item], LabeledPixels]


def label_features(
    views: Sequence[View],
    features: SiteFeatures,
    classes: Sequence[str],
    read_pixels: PixelReader,
) -> LabeledFeatures | None:
    """Combine features with the classes of their positions; None if no view has features.

    Args:
        views: Labeled images; skipped ones are left out.
        features: Features of the views.
        classes: Names of the classes.
        read_pixels: Reads the labeled pixels of an image.

    Raises:
        DataError: If labels cannot be read.
    """
    present = [view for view in views if features.has(view)]
    if not present:
        return None
    found = features.of_views(present)
    height, width, _ = found.map_shape
    labels = []
    for view in present:
        grid = Grid((height, width), view.settings.image_size, view.settings.fit)
        labels.append(_label(read_pixels(view.item), grid, len(classes)))
    return LabeledFeatures(found, torch.stack(labels), tuple(classes))


def labeled_views(
    views: Sequence[View], dataset: Dataset, label_list: str
) -> tuple[tuple[View, ...], Classes | None]:
    """Pick the views with masks whose labels may teach, and their classes; none without masks.

    Args:
        views: Training images.
        dataset: All images, to look up the list.
        label_list: As in `teach.label_list`.

    Raises:
        DataError: If the list or a mask cannot be used.
    """
    listed = set(_stems(pick_listed(dataset.items, dataset, label_list, "teach.label_list")))
    kept = tuple(
        view
        for view in views
        if view.item.mask is not None and (view.item.site, view.item.stem) in listed
    )
    if not kept:
        return (), None
    known = dataset.classes or infer_classes(view.item for view in kept)
    return kept, _with_ignored(known)


def _with_ignored(classes: Classes) -> Classes:
    """Let 255 mean no label in partial masks, where the class file gives it no meaning."""
    if classes.ignore_index is not None or classes.index_of is not None:
        return classes
    return replace(classes, ignore_index=UNLABELED) if len(classes.names) < UNLABELED else classes


def mask_reader(classes: Classes) -> PixelReader:
    """Make a reader of the labeled pixels of masks."""

    def read(item: Item) -> LabeledPixels:
        return pixels_of_mask(load_mask(item, classes), classes.ignore_index)

    return read


def click_reader(clicks: Mapping[str, Sequence[Click]], path: Path) -> PixelReader:
    """Make a reader of clicked pixels.

    Args:
        clicks: Clicks by stem.
        path: The table, for messages.
    """
    classes = classes_of_clicks(clicks)

    def read(item: Item) -> LabeledPixels:
        return pixels_of_clicks(clicks[item.stem], item, classes, path)

    return read


def clicked_views(
    views: Sequence[View], clicks: Mapping[str, Sequence[Click]], path: Path
) -> tuple[View, ...]:
    """Pick the views of the clicked images.

    Raises:
        DataError: If a clicked image does not exist, or several have its stem.
    """
    found: dict[str, list[View]] = {}
    for view in views:
        found.setdefault(view.item.stem, []).append(view)
    for stem, own in clicks.items():
        if len(found.get(stem, ())) != 1:
            many = len(found.get(stem, ()))
            wrong = f"{many} images have it" if many else "no image has it"
            raise DataError(
                f"line {own[0].line} of the table of clicks names the stem {stem!r}, but {wrong}: "
                f"{path}"
            )
    return tuple(found[stem][0] for stem in sorted(clicks))


def _label(pixels: LabeledPixels, grid: Grid, num_classes: int) -> Int[Tensor, " positions"]:
    return torch.from_numpy(label_positions(pixels, grid, num_classes)).flatten()


def _stems(items: Sequence[Item]) -> list[tuple[str, str]]:
    return [(item.site, item.stem) for item in items]
