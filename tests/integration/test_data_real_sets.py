import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.data.checks.check import check_sites
from fusseg.data.images import fit_image, load_image
from fusseg.data.items import Classes, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.masks import fit_mask, infer_classes, load_mask
from fusseg.data.partitions import training_images
from fusseg.data.partitions.leave_one_out import leave_one_out
from fusseg.data.selection import select_held_out, select_training

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


def test_the_cityscapes_original_has_the_classes_of_its_own_training_labels():
    """`labelTrainIds` are the same pixels in the 19 official classes, scaled down by themselves."""
    dataset = open_dataset(DataConfig(layout="cityscapes", root=str(SETS / "formats/cityscapes")))
    (item,) = dataset.items
    assert (item.site, item.split, item.stem) == ("frankfurt", "val", "frankfurt_000000_000294")
    mask = load_mask(item, dataset.classes)
    assert mask.shape == load_image(item).shape[:2] == (128, 256)
    path = str(item.mask).replace("labelIds", "labelTrainIds")
    train_ids = np.array(Image.open(path))
    official = [
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
        *("traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck"),
        *("bus", "train", "motorcycle", "bicycle"),
    ]
    for train_id, name in enumerate(official):
        expected = mask == dataset.classes.names.index(name)
        assert np.mean((train_ids == train_id) == expected) > 0.995
    assert np.mean(train_ids[mask == 255] == 255) > 0.97


def test_the_coco_layout_joins_the_originals_into_27_classes():
    root = SETS / "formats" / "coco_stuff"
    dataset = open_dataset(DataConfig(layout="coco-stuff", root=str(root)))
    assert Counter(item.site for item in dataset.items) == {"train2017": 5, "val2017": 8}
    with (SETS / "formats" / "cocostuff27.csv").open(newline="") as file:
        coarse = {int(row["pixel_value"]): row["coarse_name"] for row in csv.DictReader(file)}
    for item in dataset.items:
        mask = load_mask(item, dataset.classes)
        assert mask.shape == load_image(item).shape[:2]
        with Image.open(item.mask) as image:
            values = np.array(image)
        for value in np.unique(values):
            (index,) = np.unique(mask[values == value])
            found = dataset.classes.names[index] if index != 255 else None
            assert found == coarse.get(int(value))


def test_coco_originals_run_on_two_uneven_clients(cli, tmp_path):
    sets = (
        'data.layout="coco-stuff"',
        f'data.root="{SETS / "formats" / "coco_stuff"}"',
        'data.held_out_sites=["val2017"]',
        'data.partition="dirichlet"',
        "data.num_clients=2",
        'data.crops="five"',
        "data.image_size=[32, 32]",
        "evaluation.image_size=[48, 48]",
        "local.batch_size=2",
        "local.steps=2",
        "federation.rounds=1",
    )
    config = tmp_path / "coco.toml"
    config.write_text("")
    more = [part for setting in sets for part in ("--set", setting)]
    code, _, err = cli("run", config, *more, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert sorted(client["num_images"] for client in record["clients"]) == [10, 15]
    assert record["final"]["sites"]["val2017"]["num_images"] == 8
    assert record["skipped_images"] == []


def test_camvid_is_cut_into_blocks_in_proportion():
    config = DataConfig(
        root=str(SETS / "camvid"),
        train_sites=("0001TP", "0006R0", "0016E5"),
        train_split="train",
        partition="blocks",
        num_clients=18,
    )
    items = training_images(open_dataset(config), config)
    counts = Counter(item.client for item in items)
    assert Counter(client.rpartition("-")[0] for client in counts) == {
        "0001TP": 3,
        "0006R0": 5,
        "0016E5": 10,
    }
    assert max(counts.values()) - min(counts.values()) <= 3
    stems = [item.stem for item in items if item.client == "0016E5-03"]
    everything = [item.stem for item in items if item.site == "0016E5"]
    start = everything.index(stems[0])
    assert everything[start : start + len(stems)] == stems


def test_flood_can_be_split_by_color_and_each_color_held_out():
    config = DataConfig(root=str(SETS / "flood"), partition="column:colour_cluster")
    found = leave_one_out(config)
    assert list(found) == ["colour0", "colour1", "colour2", "colour3"]
    sizes = {"colour0": 91, "colour1": 57, "colour2": 60, "colour3": 59}
    for held, settings in found.items():
        dataset = open_dataset(settings)
        counts = Counter(item.client for item in training_images(dataset, settings))
        assert counts == {color: sizes[color] for color in sizes if color != held}
        assert len(select_held_out(dataset, settings)) == sizes[held]
    by_split = replace(
        config, train_split="train", held_out_split="val", held_out_sites=tuple(sizes)
    )
    dataset = open_dataset(by_split)
    assert len(training_images(dataset, by_split)) == 214
    assert len(select_held_out(dataset, by_split)) == 53
