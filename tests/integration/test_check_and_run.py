"""`check` and `run` ask the same rules: what one refuses the other refuses, in the same words."""

import json
import re
import shutil
import tomllib

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusseg.cli.check import run_check
from fusseg.config.file import merge_tables, parse_config
from fusseg.core.errors import FussegError
from fusseg.runs.prepare import extract, look_up_new

SMALL = {
    "data": {"held_out_sites": ["west"], "image_size": [64, 96]},
    "model": {"num_clusters": 2, "code_dim": 8},
    "local": {"steps": 1, "batch_size": 2, "stego": {"positions": 10}},
    "federation": {"rounds": 1},
}


def write_config(path, root, *tables):
    """A small configuration of a root with other settings laid over it."""
    table = merge_tables(SMALL, {"data": {"root": str(root)}})
    for above in tables:
        table = merge_tables(table, above)
    path.write_text(tomli_w.dumps(table))
    return path


REFUSED_SETTINGS = {
    "scores at the sites and on held-out ones": {"evaluation": {"at_sites": True}},
    "scores at sites that keep their own models": {
        "data": {"held_out_sites": []},
        "evaluation": {"at_sites": True},
        "federation": {"strategy": "local"},
    },
    "unknown strategy": {"federation": {"strategy": "fedcc"}},
    "switches a strategy cannot have": {
        "federation": {"strategy": "lloyd", "aggregate_heads": False}
    },
    "PCA from a drawn start": {
        "federation": {"strategy": "pca"},
        "model": {"init": "random"},
    },
    "a regularizer without a global head": {
        "federation": {"strategy": "local"},
        "local": {"fedprox_weight": 0.1},
    },
    "clients drawn for a baseline": {
        "federation": {"strategy": "centralized", "clients_per_round": 1}
    },
    "unknown backbone": {"backbone": {"name": "filterbanks"}},
    "no such ONNX file": {"backbone": {"name": "onnx:no.onnx"}},
    "too many components in the cache": {"backbone": {"cache": "pca:9999"}},
    "a side that is no multiple of the stride": {"data": {"image_size": [65, 96]}},
    "a scored side that is no multiple of the stride": {"evaluation": {"image_size": [65, 96]}},
    "a device that is not there": {
        "compute": {"device": "cuda" if torch.backends.mps.is_available() else "mps"}
    },
    "no run to start from": {"model": {"start": "nowhere"}},
    "a start for a strategy that trains none": {
        "model": {"start": "nowhere"},
        "federation": {"strategy": "local"},
    },
    "unknown layout": {"data": {"layout": "sides"}},
    "unknown scenes": {"data": {"layout": "synthetic", "scenes": "pipe"}},
    "no root": {"data": {"root": ""}},
    "a root that is not there": {"data": {"root": "nowhere"}},
    "a layout that does not fit": {"data": {"layout": "cityscapes"}},
    "unknown training site": {"data": {"train_sites": ["nort"]}},
    "unknown held-out site": {"data": {"held_out_sites": ["wst"]}},
    "a site that trains and is held out": {"data": {"train_sites": ["north", "west"]}},
    "nothing left to train": {"data": {"held_out_sites": ["north", "south", "west"]}},
    "a split without a table": {"data": {"train_split": "train"}},
    "a held-out split without sites": {"data": {"held_out_sites": [], "held_out_split": "val"}},
    "a list that is not there": {"data": {"train_list": "no.txt"}},
    "unknown partition": {"data": {"partition": "sites"}},
    "a partition without its argument": {"data": {"partition": "column:"}},
    "a saved partition that is not there": {"data": {"partition": "file:no.csv"}},
    "more clients than sites": {"data": {"num_clients": 3}},
    "more clients than images": {"data": {"partition": "iid", "num_clients": 7}},
    "clients of one image": {"data": {"partition": "blocks", "num_clients": 6}},
    "a Dirichlet partition that cannot be drawn": {
        "data": {"partition": "dirichlet", "num_clients": 3},
        "local": {"batch_size": 6},
    },
}


def broken_image(root, site, number):
    (root / site / "images" / f"{number:03d}.png").write_bytes(b"")


def mask_of(root, value, site="west"):
    Image.fromarray(np.full((64, 96), value, np.uint8)).save(root / site / "masks" / "000.png")


def without_two(root):
    for number in (0, 1):
        (root / "north" / "images" / f"{number:03d}.png").unlink()


def all_broken(root):
    for number in range(3):
        broken_image(root, "west", number)


def two_broken(root):
    for number in (0, 1):
        broken_image(root, "north", number)


def twin(root):
    shutil.copy(root / "west" / "images" / "000.png", root / "west" / "images" / "000.webp")


def black_and_white(root):
    (root / "classes.toml").unlink()
    for path in root.glob("*/masks/*.png"):
        Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 48))).save(path)


AT_SITES = {"data": {"held_out_sites": []}, "evaluation": {"at_sites": True}}
REFUSED_DATA = {
    "a site of one image": (without_two, {}),
    "a site that skipped images leave with one": (two_broken, {}),
    "held-out images that are all broken": (all_broken, {}),
    "two images of one stem": (twin, {}),
    "a held-out mask with a value that is no class": (lambda root: mask_of(root, 7), {}),
    "a broken held-out mask": (
        lambda root: (root / "west" / "masks" / "001.png").write_bytes(b"junk"),
        {},
    ),
    "a training mask with a value that is no class, scored": (
        lambda root: mask_of(root, 7, "north"),
        AT_SITES,
    ),
    "black-and-white masks, scored at the sites": (black_and_white, AT_SITES),
    "black-and-white masks": (black_and_white, {}),
    "classes that are no TOML": (lambda root: (root / "classes.toml").write_text("names"), {}),
    "a table of splits without a column": (
        lambda root: (root / "splits.csv").write_text("stem,split\n000,train\n"),
        {},
    ),
    "a mask that a partition reads": (
        lambda root: mask_of(root, 7, "north"),
        {"data": {"partition": "dirichlet", "num_clients": 2}},
    ),
}


def refused_alike(cli, config, run_dir):
    code, _, err = cli("run", config, "--out", run_dir)
    assert code == 2
    message = err.removeprefix("error: ").strip()
    assert not (run_dir / "record.json").exists()
    code, out, _ = cli("check", config)
    assert code == 1
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    assert any(line.endswith(f": {message}") for line in errors), (message, errors)
    assert out.rstrip().endswith("a run would fail")


@pytest.mark.parametrize("name", REFUSED_SETTINGS)
def test_settings_that_run_refuses_are_refused_by_check_in_the_same_words(
    cli, make_sites, tmp_path, name
):
    root = make_sites(num_images=3)
    config = write_config(tmp_path / "config.toml", root, REFUSED_SETTINGS[name])
    refused_alike(cli, config, tmp_path / "run")


@pytest.mark.parametrize("name", REFUSED_DATA)
def test_data_that_run_refuses_are_refused_by_check_in_the_same_words(
    cli, make_sites, tmp_path, name
):
    spoil, more = REFUSED_DATA[name]
    root = make_sites(num_images=3)
    spoil(root)
    config = write_config(tmp_path / "config.toml", root, more)
    refused_alike(cli, config, tmp_path / "run")


def test_a_start_that_does_not_suit_is_refused_by_check_too(cli, make_sites, tmp_path):
    root = make_sites(num_images=3)
    assert cli("run", write_config(tmp_path / "a.toml", root), "--out", tmp_path / "a")[0] == 0
    start = {"model": {"start": str(tmp_path / "a")}}
    assert cli("check", write_config(tmp_path / "b.toml", root, start))[0] == 0
    for other in (
        {"model": {"num_clusters": 3}},
        {"backbone": {"center": False}},
    ):
        refused_alike(cli, write_config(tmp_path / "c.toml", root, start, other), tmp_path / "c")


CHOICES = {
    "data.held_out_sites": ([], ["west"], ["north", "west"], ["nowhere"]),
    "data.train_sites": ([], ["north"], ["south", "west"]),
    "data.train_split": ("", "train"),
    "data.held_out_split": ("", "val"),
    "data.partition": ("site", "iid", "blocks", "dirichlet", "column:camera"),
    "data.num_clients": (0, 2, 3),
    "data.crops": ("none", "five"),
    "data.image_size": ([32, 48], [40, 40], [33, 48]),
    "backbone.cache": ("float16", "int8", "pca:4", "pca:99"),
    "backbone.center": ("auto", True, False),
    "model.code_dim": (8, 70),
    "federation.strategy": ("fedcc-kmeans", "local", "pca", "centralized"),
    "federation.lloyd_rounds": (0, 1),
    "evaluation.at_sites": (False, True),
    "evaluation.whole": (False, True),
    "evaluation.flip": (False, True),
}


@pytest.fixture(scope="module")
def tables_root(tmp_path_factory):
    """Three sites with a table of splits and cameras; one image and one mask are broken."""
    root = tmp_path_factory.mktemp("tables") / "sites"
    rows = ["stem,site,split,camera"]
    generator = np.random.default_rng(0)
    for site in ("north", "south", "west"):
        for folder in ("images", "masks"):
            (root / site / folder).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / site / "images" / f"{number}.png")
            labels = generator.integers(0, 2, (40, 48), dtype=np.uint8)
            Image.fromarray(labels).save(root / site / "masks" / f"{number}.png")
            rows.append(f"{number},{site},{'val' if number > 2 else 'train'},{number % 2}")
    (root / "south" / "images" / "0.png").write_bytes(b"")
    (root / "south" / "masks" / "3.png").write_bytes(b"")
    (root / "splits.csv").write_text("\n".join(rows))
    return root


def nested(flat):
    table = {}
    for key, value in flat.items():
        table = merge_tables(table, {key.partition(".")[0]: {key.partition(".")[2]: value}})
    return table


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in CHOICES.items()}))
def test_what_check_passes_is_prepared_and_what_it_refuses_is_not(tables_root, chosen):
    folder = tables_root.parent
    path = write_config(folder / "config.toml", tables_root, nested(chosen))
    passed = run_check(path, None, None, folder / "cache")
    config = parse_config(tomllib.loads(path.read_text()))
    try:
        for _ in extract(look_up_new(config), config, folder / "cache"):
            pass
        prepared = True
    except FussegError:
        prepared = False
    assert passed == prepared, json.dumps(chosen)


@pytest.mark.parametrize("labeled", [True, False])
def test_what_init_suggests_runs(cli, make_sites, tmp_path, monkeypatch, labeled):
    monkeypatch.chdir(tmp_path)
    make_sites(num_images=3, labeled=labeled)
    assert cli("init", "sites", "--out", "mine.toml")[0] == 0
    text = (tmp_path / "mine.toml").read_text()
    # Every line that reads as a setting once its mark is taken away is taken in.
    (tmp_path / "mine.toml").write_text(re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text))
    fast = ("--set", "local.steps=1", "--set", "federation.rounds=1")
    assert cli("check", "mine.toml")[0] == 0
    assert cli("run", "mine.toml", "--out", "run", *fast)[0] == 0
    if labeled:
        advice = 'remove at_sites and set data.held_out_sites = ["west"]'
        assert advice in text
        table = tomllib.loads(text)
        del table["evaluation"]["at_sites"]
        table["data"]["held_out_sites"] = ["west"]
        (tmp_path / "followed.toml").write_text(tomli_w.dumps(table))
        assert cli("check", "followed.toml")[0] == 0
        assert cli("run", "followed.toml", "--out", "followed", *fast)[0] == 0
