"""From an empty folder to a scored run without writing a line: scenes, init, check, run."""

import json
import re
import tomllib

import pytest

from fusseg.config_file import load_config

FAST = ("--set", "local.steps=4", "--set", "federation.rounds=2")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_scenes_init_check_and_run_follow_one_another(cli, tmp_path):
    assert cli("scenes", "pipes", "--out", "pipes", "--images", "4", "--held-out", "hall")[0] == 0
    code, out, err = cli("init", "pipes")
    assert (code, err) == (0, "")
    assert "12 images train, 4 held out" in out
    config = load_config(tmp_path / "pipes.toml")
    assert config.data.held_out_sites == ("hall",)
    assert (config.data.train_split, config.data.held_out_split) == ("train", "test")
    assert config.data.image_size == (240, 320)
    assert config.model.num_clusters == 2
    assert cli("check", "pipes.toml")[0] == 0
    assert cli("run", "pipes.toml", "--out", "run", *FAST)[0] == 0
    final = json.loads((tmp_path / "run" / "record.json").read_text())["final"]
    assert final["mean_iou"] is not None


def test_masks_without_splits_are_scored_where_they_are(cli, make_sites, tmp_path):
    make_sites(num_images=4)
    assert cli("init", "sites", "--out", "mine.toml")[0] == 0
    config = load_config(tmp_path / "mine.toml")
    assert config.evaluation.at_sites
    assert config.data.image_size == (64, 96)
    assert cli("run", "mine.toml", "--out", "run", *FAST)[0] == 0
    final = json.loads((tmp_path / "run" / "record.json").read_text())["final"]
    assert final["mean_iou"] is not None


def test_unlabeled_images_of_one_folder_are_enough(cli, make_sites, tmp_path):
    make_sites(labeled=False, sites=("north",), num_images=4)
    code, out, _ = cli("init", "sites/north/images", "--out", "mine.toml", "--k", "3")
    assert code == 0
    assert "4 images train, 0 held out" in out
    config = load_config(tmp_path / "mine.toml")
    assert (config.data.layout, config.model.num_clusters) == ("images", 3)
    assert not config.evaluation.at_sites
    # nothing to score: looking at every image after every round would only take time
    assert config.evaluation.every == 0
    assert cli("run", "mine.toml", "--out", "run", *FAST)[0] == 0


def test_a_guessed_number_of_regions_says_so(cli, make_sites, tmp_path):
    make_sites(labeled=False)
    assert cli("init", "sites")[0] == 0
    text = (tmp_path / "sites.toml").read_text()
    assert tomllib.loads(text)["model"]["num_clusters"] == 8
    assert "fusseg suggest-k guesses" in text


def test_names_that_need_quotes_are_written_so(cli, make_sites, tmp_path):
    make_sites(labeled=False, sites=('the "north"', "süd"), name='a "b" \\ c')
    assert cli("init", 'a "b" \\ c', "--out", "mine.toml")[0] == 0
    assert load_config(tmp_path / "mine.toml").data.root == 'a "b" \\ c'


def test_check_of_a_folder_sees_what_init_writes(cli, tmp_path):
    cli("scenes", "pipes", "--out", "pipes", "--images", "3", "--held-out", "hall")
    cli("init", "pipes")
    code, of_folder, _ = cli("check", "pipes")
    assert code == 0
    assert "9 images train, 3 held out" in of_folder
    assert "at 240x320" in of_folder
    pattern = re.compile(r"and \d+ s|\(\d+ MB free\)")
    of_config = cli("check", "pipes.toml")[1]
    assert pattern.sub("", of_folder) == pattern.sub("", of_config)
    code, of_images, _ = cli("check", "pipes/yard/images")
    assert code == 0
    assert "3 images train, 0 held out" in of_images


def test_a_file_that_is_there_is_left_alone(cli, make_sites, tmp_path):
    make_sites()
    (tmp_path / "sites.toml").write_text("mine")
    code, _, err = cli("init", "sites")
    assert code == 2
    assert err == "error: sites.toml is there already; give another --out, or remove it\n"
    assert (tmp_path / "sites.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "data.root does not exist: 'nowhere'; expected ROOT/SITE/images"),
        (("sites", "--k", "1"), "model.num_clusters must be at least 2, got 1"),
        (("sites", "--backbone", "onnx:no.onnx"), "ONNX file 'no.onnx' does not exist"),
        (("sites", "--out", "no/such/mine.toml"), "cannot write no/such/mine.toml"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    cli, make_sites, tmp_path, arguments, message
):
    make_sites()
    code, _, err = cli("init", *arguments)
    assert code == 2
    assert message in err
    assert list(tmp_path.glob("**/*.toml")) == [tmp_path / "sites" / "classes.toml"]
