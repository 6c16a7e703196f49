from pathlib import Path

import numpy as np
import pytest

from fusseg.config import DataConfig
from fusseg.data.check import check_sites
from fusseg.data.datasets import open_dataset, select_held_out, select_training
from fusseg.data.images import fit_image, load_image
from fusseg.data.items import Classes, Item
from fusseg.data.masks import fit_mask, infer_classes, load_mask

SETS = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not SETS.is_dir(), reason="the real sets are not beside the project"
)


def test_camvid_is_read_as_its_readme_says():
    config = DataConfig(
        root=str(SETS / "camvid"),
        train_sites=("0001TP", "0006R0", "0016E5"),
        train_split="train",
        held_out_sites=("0001TP", "Seq05VD"),
        held_out_split="test",
    )
    dataset = open_dataset(config)
    assert len(dataset.items) == 701
    assert dataset.classes.names[3] == "road"
    assert dataset.classes.ignore_index == 11
    assert len(select_training(dataset, config)) == 367
    assert len(select_held_out(dataset, config)) == 233
    item = dataset.items[0]
    image, mask = load_image(item), load_mask(item, dataset.classes)
    assert image.shape == (360, 480, 3)
    assert fit_image(image, (320, 320), "crop", "bilinear").shape == (320, 320, 3)
    assert fit_mask(mask, (320, 320), "crop").shape == (320, 320)


def test_flood_passes_the_check():
    config = DataConfig(root=str(SETS / "flood"), held_out_sites=("batch3",))
    findings = list(check_sites(config))
    assert [finding for finding in findings if finding.severity != "note"] == []
    assert "177 images train, 90 held out" in [finding.message for finding in findings]


def test_coco_stuff_originals_load_with_their_pixel_maps():
    """Grayscale and color JPEGs of many sizes, 255 for unlabeled pixels."""
    items = [
        Item("coco", path.stem, "", path, maps / f"{path.stem}.png")
        for split in ("train2017", "val2017")
        for maps in [SETS / "formats" / "coco_stuff" / "stuffthingmaps" / split]
        for path in sorted((SETS / "formats" / "coco_stuff" / "images" / split).glob("*.jpg"))
    ]
    assert len(items) == 13
    classes = infer_classes(items)
    assert classes.ignore_index == 255
    assert len(classes.names) <= 182
    for item in items:
        assert load_mask(item, classes).shape == load_image(item).shape[:2]


def test_a_cityscapes_frame_loads_with_its_train_ids():
    folder = SETS / "formats" / "cityscapes"
    stem = "frankfurt_000000_000294"
    item = Item(
        "frankfurt",
        stem,
        "val",
        folder / "leftImg8bit" / "val" / "frankfurt" / f"{stem}_leftImg8bit.png",
        folder / "gtFine" / "val" / "frankfurt" / f"{stem}_gtFine_labelTrainIds.png",
    )
    mask = load_mask(item, Classes(tuple(map(str, range(19))), 255))
    assert load_image(item).shape == (128, 256, 3)
    assert set(np.unique(mask)) <= {*range(19), 255}
