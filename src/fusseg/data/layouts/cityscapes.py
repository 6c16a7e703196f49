"""Cityscapes as distributed: one site per city, the 27 classes usual in unsupervised work."""

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.folders import data_root, files_by_ending, named, visible
from fusseg.data.items import NO_CLASS, Classes, Dataset, Item

LAYOUT = (
    "expected ROOT/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and "
    "ROOT/gtFine/{train,val}/CITY/*_gtFine_labelIds.png"
)
LABEL_ENDING = "_gtFine_labelIds.png"
SPLITS = ("train", "val", "test")

CITIES = (
    *("aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf"),
    *("erfurt", "hamburg", "hanover", "jena", "krefeld", "monchengladbach"),
    *("stuttgart", "strasbourg", "tubingen", "ulm", "weimar", "zurich"),
)
"""The training cities in the order of the paper's tables of 3, 6 and 18 clients."""

_FIRST_ID, _LAST_ID = 7, 33
_NAMES_AND_COLORS = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("parking", (250, 170, 160)),
    ("rail track", (230, 150, 140)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("guard rail", (180, 165, 180)),
    ("bridge", (150, 100, 100)),
    ("tunnel", (150, 120, 90)),
    ("pole", (153, 153, 153)),
    ("polegroup", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("caravan", (0, 0, 90)),
    ("trailer", (0, 0, 110)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
_IGNORED = 255

CLASSES = Classes(
    names=tuple(name for name, _ in _NAMES_AND_COLORS),
    ignore_index=_IGNORED,
    colors=tuple(color for _, color in _NAMES_AND_COLORS),
    index_of=(
        *(_IGNORED,) * _FIRST_ID,
        *range(len(_NAMES_AND_COLORS)),
        *(NO_CLASS,) * (255 - _LAST_ID),
    ),
    advice=(
        "label ids are 0 to 33, and 255 occurs only in *_labelTrainIds.png, which numbers the "
        "classes differently; replace it by the *_gtFine_labelIds.png of the package"
    ),
)
"""Label ids 7 to 33 become classes 0 to 26, ids 0 to 6 are ignored, and others are refused.

The id -1, a license plate, does not occur in the official masks.
"""


def open_cityscapes(config: DataConfig) -> Dataset:
    """List the images of a Cityscapes folder: a site per city, splits train, val and test.

    Raises:
        ConfigError: If no root is set.
        DataError: If the root cannot be read, holds no image, or a name is not valid UTF-8.
    """
    try:
        root = data_root(config, LAYOUT)
        items = [
            Item(city.name, stem, split, image, masks.get(stem))
            for split in SPLITS
            if (root / "leftImg8bit" / split).is_dir()
            for city in map(named, visible(root / "leftImg8bit" / split))
            for masks in [files_by_ending(root / "gtFine" / split / city.name, LABEL_ENDING)]
            for stem, image in files_by_ending(city, "_leftImg8bit.png").items()
        ]
    except OSError as error:
        raise DataError(f"data.root cannot be read ({error.strerror}): {error.filename}") from error
    if not items:
        raise DataError(f"no Cityscapes image found in {str(root)!r}; {LAYOUT}")
    ordered = sorted(items, key=lambda item: (item.site, item.stem))
    others = sorted({item.site for item in items}.difference(CITIES))
    return Dataset(tuple(ordered), CLASSES, (*CITIES, *others))
