from pathlib import Path

import pytest

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError
from fusseg.data.items import Classes, Dataset, Item
from fusseg.data.layouts import open_dataset
from fusseg.data.selection import select_held_out, select_training
from fusseg.data.synthetic.scenes import Scene


def dataset_of(text):
    """One image per word, as site:split; the stem is the position."""
    items = []
    for number, word in enumerate(text.split()):
        site, _, split = word.partition(":")
        items.append(Item(site, str(number), split, Path(f"{number}.jpg")))
    return Dataset(tuple(items), None)


MIXED = dataset_of("a:train a:train a:test b:train b:train b:val c:test c:test")


def stems(items):
    return "".join(item.stem for item in items)


def refused(dataset, error=ConfigError, choose=select_training, **settings):
    with pytest.raises(error) as caught:
        choose(dataset, DataConfig(**settings))
    return str(caught.value)


def test_every_site_trains_where_nothing_is_said():
    assert stems(select_training(MIXED, DataConfig())) == "01234567"
    assert select_held_out(MIXED, DataConfig()) == ()


def test_held_out_sites_do_not_train():
    config = DataConfig(held_out_sites=("c",))
    assert stems(select_training(MIXED, config)) == "012345"
    assert stems(select_held_out(MIXED, config)) == "67"


def test_held_out_sites_train_too_where_the_splits_differ():
    config = DataConfig(train_split="train", held_out_split="test", held_out_sites=("a", "c"))
    assert stems(select_training(MIXED, config)) == "0134"
    assert stems(select_held_out(MIXED, config)) == "267"


def test_named_sites_train():
    config = DataConfig(train_sites=("b",), train_split="train")
    assert stems(select_training(MIXED, config)) == "34"


@pytest.mark.parametrize(
    ("choose", "key"), [(select_training, "train_sites"), (select_held_out, "held_out_sites")]
)
def test_an_unknown_site_is_named(choose, key):
    dataset = dataset_of("north north south south")
    message = refused(dataset, choose=choose, **{key: ("nort",)})
    assert message == f"unknown site 'nort' in data.{key}; did you mean 'north'?"


def test_an_unknown_split_is_named():
    message = refused(MIXED, train_split="trian")
    assert message == "unknown split 'trian' in data.train_split; did you mean 'train'?"
    message = refused(MIXED, choose=select_held_out, held_out_split="x", held_out_sites=("a",))
    assert message == "unknown split 'x' in data.held_out_split; choose one of test, train, val"


def test_a_split_is_refused_where_there_are_none():
    message = refused(dataset_of("a a"), train_split="train")
    assert message == "data.train_split is 'train', but no image has a split; leave it empty"


def test_a_named_site_needs_images_in_its_split():
    message = refused(MIXED, train_sites=("b", "c"), train_split="train")
    assert message == (
        "site 'c' of data.train_sites has no image in split 'train'; "
        "choose another split or leave the site out"
    )
    settings = {"held_out_sites": ("b",), "held_out_split": "test"}
    message = refused(MIXED, choose=select_held_out, **settings)
    assert message == (
        "site 'b' of data.held_out_sites has no image in split 'test'; "
        "choose another split or leave the site out"
    )


def test_a_held_out_split_needs_sites():
    message = refused(MIXED, choose=select_held_out, held_out_split="test")
    assert message == (
        "data.held_out_split is 'test', but data.held_out_sites is empty; "
        "name the sites to evaluate"
    )


def test_some_site_must_train():
    message = refused(MIXED, held_out_sites=("a", "b", "c"))
    assert message == (
        "no image trains: data.held_out_sites names every site, a, b, c; "
        "remove a site from it, or set data.train_split and data.held_out_split"
    )


@pytest.mark.parametrize("split", ["", "test"])
def test_no_image_both_trains_and_is_held_out(split):
    dataset = dataset_of("a:test a:test b:test b:test")
    message = refused(dataset, train_sites=("a", "b"), held_out_sites=("b",), held_out_split=split)
    assert message == (
        "image '2' of site 'b' both trains and is held out (2 images in all); set "
        "data.train_split and data.held_out_split to different splits, or name different sites"
    )


def test_generated_scenes_are_labeled_sites():
    config = DataConfig(layout="synthetic", images_per_site=3, scene_seed=5)
    dataset = open_dataset(config)
    assert dataset.sites == ("hall", "tank", "tunnel", "yard")
    assert len(dataset.items) == 12
    scene = Scene("pipes", "hall", 0, 5)
    assert dataset.items[0] == Item("hall", "00000", "", scene, scene)
    assert dataset.classes == Classes(("background", "pipe"), None, ((70, 70, 70), (0, 170, 220)))
    held_out = DataConfig(layout="synthetic", images_per_site=3, held_out_sites=("yard",))
    assert len(select_training(dataset, held_out)) == 9


def test_streets_have_four_sites_and_seven_classes():
    dataset = open_dataset(DataConfig(layout="synthetic", scenes="streets", images_per_site=2))
    assert len(dataset.sites) == 4
    assert len(dataset.classes.names) == 7


def test_unknown_names_are_named():
    with pytest.raises(ConfigError) as caught:
        open_dataset(DataConfig(layout="site"))
    assert str(caught.value) == "unknown data.layout 'site'; did you mean 'sites'?"
    with pytest.raises(ConfigError) as caught:
        open_dataset(DataConfig(layout="synthetic", scenes="street"))
    assert str(caught.value) == "unknown data.scenes 'street'; did you mean 'streets'?"
