import numpy as np
import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.data.checks.check import check_sites
from fusseg.data.findings import Finding
from fusseg.data.items import NO_CLASS
from fusseg.data.layouts import open_dataset
from fusseg.data.layouts.cityscapes import CITIES, CLASSES, LAYOUT
from fusseg.data.masks import count_classes, load_mask
from fusseg.data.partitions import training_images
from fusseg.data.selection import select_held_out, select_training

PAPER = {
    3: [CITIES[:6], CITIES[6:12], CITIES[12:]],
    6: [CITIES[start : start + 3] for start in range(0, 18, 3)],
}


@pytest.fixture
def make_tree(tmp_path):
    """Write a tree as Cityscapes has it: cities of each split, two images each, all labels id 7."""

    def make(split_cities, labeled=("train", "val"), ids=7):
        for split, cities in split_cities.items():
            for city in cities:
                images = tmp_path / "leftImg8bit" / split / city
                labels = tmp_path / "gtFine" / split / city
                images.mkdir(parents=True)
                for frame in ("000000_000019", "000001_000019"):
                    stem = f"{city}_{frame}"
                    pixels = np.full((4, 6, 3), len(stem), np.uint8)
                    pixels[0, 0] = list(stem[:3].encode())
                    pixels[0, 1] = int(frame[5])
                    Image.fromarray(pixels).save(images / f"{stem}_leftImg8bit.png")
                    if split in labeled:
                        labels.mkdir(parents=True, exist_ok=True)
                        mask = Image.fromarray(np.full((4, 6), ids, np.uint8))
                        mask.save(labels / f"{stem}_gtFine_labelIds.png")
                        mask.save(labels / f"{stem}_gtFine_labelTrainIds.png")
        return tmp_path

    return make


def settings(root, **more):
    return DataConfig(layout="cityscapes", root=str(root), image_size=(16, 16), **more)


def test_cities_are_sites_and_stems_lose_their_ending(make_tree):
    root = make_tree({"train": ["ulm"], "val": ["lindau"], "test": ["berlin"]})
    dataset = open_dataset(settings(root))
    assert dataset.sites == ("berlin", "lindau", "ulm")
    assert [item.split for item in dataset.items] == ["test"] * 2 + ["val"] * 2 + ["train"] * 2
    item = dataset.items[-1]
    assert item.stem == "ulm_000001_000019"
    assert item.image.name == "ulm_000001_000019_leftImg8bit.png"
    assert item.mask.name == "ulm_000001_000019_gtFine_labelIds.png"
    assert dataset.items[0].mask is None


def test_images_are_listed_without_any_labels(make_tree):
    dataset = open_dataset(settings(make_tree({"val": ["lindau"]}, labeled=())))
    assert [item.mask for item in dataset.items] == [None, None]


def test_ids_7_to_33_are_the_27_classes_and_lower_ones_are_ignored():
    assert len(CLASSES.names) == len(CLASSES.colors) == 27
    assert CLASSES.index_of[7:34] == tuple(range(27))
    assert set(CLASSES.index_of[:7]) == {CLASSES.ignore_index}
    assert set(CLASSES.index_of[34:]) == {NO_CLASS}
    assert len(CLASSES.index_of) == 256
    named = dict(zip(CLASSES.names, CLASSES.colors, strict=True))
    assert next(iter(named)) == "road"
    assert list(named)[26] == "bicycle"
    assert named["sky"] == (70, 130, 180)


def test_masks_are_read_as_class_indices(make_tree):
    root = make_tree({"val": ["lindau"]})
    item = open_dataset(settings(root)).items[0]
    ids = np.array([[0, 6, 7, 8, 33, 1], [3, 26, 26, 26, 7, 7]], np.uint8)
    Image.fromarray(ids.repeat(2, axis=0)).save(item.mask)
    expected = [[255, 255, 0, 1, 26, 255], [255, 19, 19, 19, 0, 0]]
    np.testing.assert_array_equal(load_mask(item, CLASSES), np.repeat(expected, 2, axis=0))
    counts = count_classes(item, CLASSES)
    assert {index: counts[index] for index in np.flatnonzero(counts)} == {0: 6, 1: 2, 19: 6, 26: 2}


@pytest.mark.parametrize(
    ("ids", "shown"),
    [([0, 13, 255], "values 255,"), ([7, 34, 7], "values 34,"), ([90, 1, 255], "values 90, 255,")],
)
def test_values_that_are_no_label_ids_are_refused_as_train_ids(make_tree, ids, shown):
    root = make_tree({"train": ["ulm"], "val": ["lindau"]})
    config = settings(
        root, train_split="train", held_out_split="val", held_out_sites=("lindau",), crops="five"
    )
    item = select_held_out(open_dataset(config), config)[0]
    Image.fromarray(np.array([ids * 2] * 4, np.uint8)).save(item.mask)
    with pytest.raises(DataError) as caught:
        load_mask(item, CLASSES)
    message = str(caught.value)
    assert shown in message
    assert "label ids are 0 to 33" in message
    assert "labelTrainIds" in message
    assert message.endswith(f": {item.mask}")
    with pytest.raises(DataError, match="labelTrainIds"):
        count_classes(item, CLASSES)
    found = [finding for finding in check_sites(config) if finding.severity == "error"]
    assert found == [Finding("error", f"lindau/{item.image.name}", message)]


@pytest.mark.parametrize("num_clients", [3, 6])
def test_consecutive_cities_form_the_clients_of_the_paper(make_tree, num_clients):
    root = make_tree({"train": CITIES, "val": ["frankfurt", "lindau", "munster"]}, labeled=())
    config = settings(
        root,
        train_split="train",
        held_out_split="val",
        held_out_sites=("frankfurt", "lindau", "munster"),
        num_clients=num_clients,
    )
    dataset = open_dataset(config)
    held = {}
    for item in training_images(dataset, config):
        held.setdefault(item.client, set()).add(item.site)
    assert sorted(held) == [f"client-{number:02d}" for number in range(num_clients)]
    assert [held[name] for name in sorted(held)] == [set(part) for part in PAPER[num_clients]]
    assert len(select_held_out(dataset, config)) == 6


def test_18_clients_are_the_cities_themselves(make_tree):
    config = settings(make_tree({"train": CITIES}, labeled=()), num_clients=18)
    items = training_images(open_dataset(config), config)
    assert {item.client: item.site for item in items} == {city: city for city in CITIES}


def test_an_unknown_city_comes_after_the_paper_s(make_tree):
    config = settings(make_tree({"train": ["zurich", "aachen", "brno", "ulm"]}), num_clients=2)
    dataset = open_dataset(config)
    clients = {item.site: item.client for item in training_images(dataset, config)}
    assert clients == dict.fromkeys(("aachen", "ulm"), "client-00") | dict.fromkeys(
        ("zurich", "brno"), "client-01"
    )


def test_the_check_describes_a_small_tree(make_tree):
    root = make_tree({"train": ["ulm", "bochum"], "val": ["lindau"]}, labeled=("val",))
    config = settings(
        root, train_split="train", held_out_split="val", held_out_sites=("lindau",), crops="five"
    )
    findings = list(check_sites(config))
    assert {finding.severity for finding in findings} == {"note"}
    names = ", ".join(CLASSES.names)
    assert findings[:6] == [
        Finding("note", "bochum", "2 images, 0 masks; splits: train 2"),
        Finding("note", "lindau", "2 images, 2 masks; splits: val 2"),
        Finding("note", "ulm", "2 images, 0 masks; splits: train 2"),
        Finding("note", str(root), f"27 classes: {names}; merged from 27 pixel values"),
        Finding("note", "selection", "4 images train, 2 held out"),
        Finding("note", "crops", "20 crops replace the training images"),
    ]


def test_an_image_that_does_not_fit_its_mask_is_an_error_of_the_check(make_tree):
    root = make_tree({"train": ["ulm"], "val": ["lindau"]})
    config = settings(root, held_out_sites=("lindau",))
    item = select_held_out(open_dataset(config), config)[0]
    Image.new("L", (3, 3)).save(item.mask)
    found = [finding for finding in check_sites(config) if finding.severity == "error"]
    message = f"mask of shape (3, 3) does not fit its image of shape (4, 6): {item.mask}"
    assert found == [Finding("error", f"lindau/{item.image.name}", message)]


def test_an_empty_folder_and_a_missing_root_are_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset(settings(tmp_path))
    assert str(caught.value) == f"no Cityscapes image found in {str(tmp_path)!r}; {LAYOUT}"
    with pytest.raises(ConfigError):
        open_dataset(DataConfig(layout="cityscapes"))


def test_a_folder_of_sites_that_is_cityscapes_is_told_so(make_tree):
    root = make_tree({"train": ["ulm"]})
    with pytest.raises(DataError) as caught:
        open_dataset(DataConfig(root=str(root)))
    assert f'set data.layout = "cityscapes" and data.root = "{root}"' in str(caught.value)


def test_everything_trains_where_nothing_is_said(make_tree):
    config = settings(make_tree({"train": ["ulm"], "val": ["lindau"]}))
    assert len(select_training(open_dataset(config), config)) == 4
