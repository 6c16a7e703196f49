"""COCO-Stuff as distributed: two sites, 182 fine classes merged into 27 coarse ones."""

import csv
from functools import cache
from importlib.resources import files

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.folders import data_root, files_by_stem
from fusseg.data.items import NO_CLASS, Classes, Dataset, Item
from fusseg.data.mask_files import masks_by_stem

LAYOUT = "expected ROOT/images/{train,val}2017/*.jpg and ROOT/stuffthingmaps/{train,val}2017/*.png"
SITES = {"train2017": "train", "val2017": "val"}
"""Split of each site."""

UNLABELED = 255
"""Pixel value that is ignored."""
NEVER_LABELED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Pixel values of the 11 things that have a name but no annotation (street sign, hat, ...)."""

_ADVICE = (
    "the maps of stuffthingmaps_trainval2017.zip hold 0 to 181, except 11 values that no "
    "annotation has, and 255; *_labelTrainIds.png (0 to 170) and the maps of "
    "stuff_annotations_trainval2017.zip (92 to 183) number the classes differently; replace it by "
    "the PNG of stuffthingmaps"
)


def open_coco_stuff(config: DataConfig) -> Dataset:
    """List the images of a COCO-Stuff folder: sites train2017 and val2017, splits train and val.

    Raises:
        ConfigError: If no root is set.
        DataError: If the root cannot be read, holds no image, or a name is not valid UTF-8.
    """
    try:
        root = data_root(config, LAYOUT)
        items = [
            Item(site, stem, split, image, masks.get(stem))
            for site, split in SITES.items()
            for masks in [masks_by_stem(root / "stuffthingmaps" / site)]
            for stem, image in files_by_stem(root / "images" / site, (".jpg",)).items()
        ]
    except OSError as error:
        raise DataError(f"data.root cannot be read ({error.strerror}): {error.filename}") from error
    if not items:
        raise DataError(f"no COCO image found in {str(root)!r}; {LAYOUT}")
    ordered = sorted(items, key=lambda item: (item.site, item.stem))
    return Dataset(tuple(ordered), coarse_classes())


@cache
def coarse_classes() -> Classes:
    """Read the table that maps 171 pixel values to 27 coarse classes; 255 is ignored."""
    table = files("fusseg.data.layouts") / "cocostuff27.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    names = {int(row["coarse_index"]): row["coarse_name"] for row in rows}
    index_of = dict.fromkeys(range(256), NO_CLASS)
    index_of |= {int(row["pixel_value"]): int(row["coarse_index"]) for row in rows}
    index_of |= dict.fromkeys(NEVER_LABELED, NO_CLASS)
    index_of[UNLABELED] = UNLABELED
    return Classes(
        names=tuple(names[index] for index in sorted(names)),
        ignore_index=UNLABELED,
        index_of=tuple(index_of[value] for value in range(256)),
        advice=_ADVICE,
    )
