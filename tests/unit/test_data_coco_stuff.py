from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import DataError
from fusseg.data.checks.check import check_sites
from fusseg.data.findings import Finding
from fusseg.data.layouts import open_dataset
from fusseg.data.layouts.coco_stuff import LAYOUT, NEVER_LABELED, coarse_classes
from fusseg.data.masks import load_mask
from fusseg.data.selection import select_held_out, select_training


@pytest.fixture
def make_tree(tmp_path):
    """Write a tree as COCO-Stuff has it, from pixel values by site and stem; None: no mask."""

    def make(pixel_values):
        for site, stems in pixel_values.items():
            for folder in ("images", "stuffthingmaps"):
                (tmp_path / folder / site).mkdir(parents=True)
            for number, (stem, value) in enumerate(stems.items()):
                color = (10 * number, 0, len(site))
                Image.new("RGB", (20, 18), color).save(tmp_path / "images" / site / f"{stem}.jpg")
                if value is not None:
                    path = tmp_path / "stuffthingmaps" / site / f"{stem}.png"
                    Image.fromarray(np.full((18, 20), value, np.uint8)).save(path)
        return tmp_path

    return make


def settings(root, **more):
    return DataConfig(layout="coco-stuff", root=str(root), image_size=(16, 16), **more)


def test_the_two_folders_are_sites_with_a_split_each(make_tree):
    root = make_tree({"train2017": {"000000000009": 0}, "val2017": {"000000000139": None}})
    dataset = open_dataset(settings(root))
    train, held_out = dataset.items
    assert (train.site, train.stem, train.split) == ("train2017", "000000000009", "train")
    assert (held_out.site, held_out.split, held_out.mask) == ("val2017", "val", None)


def test_curated_lists_of_ids_pick_what_is_scored_and_what_trains(make_tree):
    ids = [f"{number:012d}" for number in (9, 25, 139, 285, 632)]
    root = make_tree({"train2017": dict.fromkeys(ids[:2], 0), "val2017": dict.fromkeys(ids[2:], 0)})
    lists = {}
    for site, listed in {"train2017": ids[1:2], "val2017": [ids[4], ids[2]]}.items():
        lists[site] = root / "curated" / site / "Coco164kFull_Stuff_Coarse_7.txt"
        lists[site].parent.mkdir(parents=True)
        lists[site].write_text("".join(f"{one}\n" for one in listed))
    config = settings(
        root,
        train_sites=("train2017",),
        held_out_sites=("val2017",),
        train_list=str(lists["train2017"]),
        held_out_list=str(lists["val2017"]),
    )
    dataset = open_dataset(config)
    assert [item.stem for item in select_training(dataset, config)] == [ids[1]]
    assert [item.stem for item in select_held_out(dataset, config)] == [ids[2], ids[4]]


def test_171_pixel_values_are_27_classes_and_255_is_ignored(make_tree):
    classes = coarse_classes()
    assert len(classes.names) == 27
    assert classes.ignore_index == 255
    labeled = [value for value in range(182) if value not in NEVER_LABELED]
    assert len(labeled) == 171
    assert {classes.index_of[value] for value in labeled} == set(range(27))
    assert Counter(classes.index_of) - Counter(classes.index_of[v] for v in labeled) == {
        -1: 84,
        255: 1,
    }
    item = open_dataset(settings(make_tree({"val2017": {"1": 2}}))).items[0]
    # car, sky-other and unlabeled
    Image.fromarray(np.full((18, 20), [2] * 10 + [156] * 9 + [255], np.uint8)).save(item.mask)
    vehicle, sky = classes.names.index("vehicle"), classes.names.index("sky")
    expected = np.full((18, 20), [vehicle] * 10 + [sky] * 9 + [255])
    np.testing.assert_array_equal(load_mask(item, classes), expected)


@pytest.mark.parametrize("value", [200, 183, *NEVER_LABELED])
def test_a_value_that_no_pixel_map_has_is_refused(make_tree, value):
    item = open_dataset(settings(make_tree({"val2017": {"1": value}}))).items[0]
    with pytest.raises(DataError) as caught:
        load_mask(item, coarse_classes())
    message = str(caught.value)
    assert message.startswith(f"mask has the values {value}, which the layout does not know")
    assert "labelTrainIds" in message
    assert "stuffthingmaps" in message
    assert message.endswith(f": {item.mask}")


def test_lists_pick_subsets(make_tree, tmp_path):
    root = make_tree({"train2017": {"1": 0, "2": 0, "3": 0}, "val2017": {"4": 0, "5": 0}})
    (tmp_path / "train.txt").write_text("3\n1\n")
    (tmp_path / "val.txt").write_text("val2017/5\n")
    config = settings(
        root,
        held_out_sites=("val2017",),
        train_list=str(tmp_path / "train.txt"),
        held_out_list=str(tmp_path / "val.txt"),
    )
    dataset = open_dataset(config)
    assert [item.stem for item in select_training(dataset, config)] == ["1", "3"]
    assert [item.stem for item in select_held_out(dataset, config)] == ["5"]


def test_the_check_counts_clients_and_images_without_a_mask(make_tree):
    stems = {str(number): number % 2 for number in range(6)}
    root = make_tree({"train2017": stems, "val2017": {"7": 3, "8": None}})
    more = {"held_out_sites": ("val2017",), "partition": "dirichlet", "num_clients": 2}
    findings = list(check_sites(settings(root, alpha=100.0, **more)))
    assert {finding.severity for finding in findings} == {"note"}
    messages = [finding.message for finding in findings]
    assert "1 image without a mask, the first: '8'; evaluation leaves them out" in messages
    assert Finding("note", "selection", "6 images train, 2 held out") in findings
    assert "2 clients of " in next(f.message for f in findings if f.subject == "partition")
    too_many = list(check_sites(settings(root, **more), min_images=4))
    assert (
        Finding(
            "error",
            "selection",
            "6 images are too few for 2 clients of at least 4 images, a batch; lower "
            "data.num_clients or local.batch_size",
        )
        in too_many
    )


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset(settings(tmp_path))
    assert str(caught.value) == f"no COCO image found in {str(tmp_path)!r}; {LAYOUT}"
