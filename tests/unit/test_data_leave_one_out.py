from dataclasses import replace

import pytest
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError
from fusseg.data.layouts import open_dataset
from fusseg.data.partitions.leave_one_out import leave_one_out
from fusseg.data.selection import select_held_out, select_training

SPLITS = {"a": "train train test", "b": "train train", "c": "test test", "d": "train train test"}


@pytest.fixture
def config(tmp_path):
    """Four sites; `b` has no image to test on, `c` none to train on."""
    rows = ["stem,site,split"]
    for site, splits in SPLITS.items():
        (tmp_path / site / "images").mkdir(parents=True)
        for number, split in enumerate(splits.split()):
            Image.new("RGB", (8, 8)).save(tmp_path / site / "images" / f"{number}.png")
            rows.append(f"{number},{site},{split}")
    (tmp_path / "splits.csv").write_text("\n".join(rows))
    return DataConfig(root=str(tmp_path))


def turns(config, **more):
    found = leave_one_out(replace(config, **more))
    return {held: "".join(settings.train_sites) for held, settings in found.items()}


def test_each_site_is_held_out_and_all_others_train(config):
    assert turns(config) == {"a": "bcd", "b": "acd", "c": "abd", "d": "abc"}
    for held, settings in leave_one_out(config).items():
        dataset = open_dataset(settings)
        assert {item.site for item in select_held_out(dataset, settings)} == {held}
        assert held not in {item.site for item in select_training(dataset, settings)}


def test_splits_stay_and_sites_without_an_image_in_them_take_no_part(config):
    splits = {"train_split": "train", "held_out_split": "test"}
    assert turns(config, **splits) == {"a": "bd", "c": "abd", "d": "ab"}
    for settings in leave_one_out(replace(config, **splits)).values():
        dataset = open_dataset(settings)
        assert {item.split for item in select_training(dataset, settings)} == {"train"}
        assert {item.split for item in select_held_out(dataset, settings)} == {"test"}


def test_named_sites_limit_who_trains_and_who_is_held_out(config):
    assert turns(config, train_sites=("a", "b", "d")) == {"a": "bd", "b": "ad", "d": "ab"}
    assert turns(config, held_out_sites=("c",)) == {"c": "abd"}
    assert turns(config, train_sites=("a", "b"), held_out_sites=("b", "c")) == {"b": "a", "c": "ab"}


def test_other_settings_stay(config):
    found = leave_one_out(replace(config, crops="five", partition="iid", num_clients=2))
    assert {(one.crops, one.partition, one.num_clients) for one in found.values()} == {
        ("five", "iid", 2)
    }


def test_one_site_cannot_be_left_out(config):
    with pytest.raises(ConfigError) as caught:
        leave_one_out(replace(config, train_sites=("a",)))
    assert str(caught.value) == (
        "leaving one site out needs at least 2 sites with images in their splits, got a to train "
        "and a to hold out; choose other data.train_sites, data.held_out_sites or splits"
    )


def test_unknown_names_are_refused(config):
    with pytest.raises(ConfigError, match=r"unknown site 'z' in data\.held_out_sites"):
        leave_one_out(replace(config, held_out_sites=("z",)))
    with pytest.raises(ConfigError, match=r"unknown split 'val' in data\.train_split"):
        leave_one_out(replace(config, train_split="val"))
