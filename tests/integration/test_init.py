"""From an empty folder to a scored run without writing a line: scenes, init, check, run."""

import json
import os
import re
import tomllib

import pytest

from fusseg.config.file import load_config

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
    assert err == "error: sites.toml already exists; give another --out, or delete it\n"
    assert (tmp_path / "sites.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "data.root does not exist: 'nowhere', looked for at /"),
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


def test_a_site_of_one_image_is_left_out_and_the_rest_runs(cli, make_sites, tmp_path):
    root = make_sites(labeled=False, sites=("east", "north", "south"), num_images=3)
    for stem in ("000", "001"):
        (root / "north" / "images" / f"{stem}.png").unlink()
    code, out, _ = cli("init", "sites", "--out", "mine.toml")
    assert code == 0
    assert (
        "warning: fewer than the 2 training images that a site needs: north; "
        "left out of data.train_sites\n6 images train, 0 held out\n"
    ) in out
    assert load_config(tmp_path / "mine.toml").data.train_sites == ("east", "south")
    assert '# held_out_sites = ["north"]' in (tmp_path / "mine.toml").read_text()
    code, out, _ = cli("check", "sites")
    assert code == 0
    assert "warning: north: 1 training image, but a site needs 2 to train" in out
    assert cli("run", "mine.toml", "--out", "run", *FAST)[0] == 0


def test_sites_that_are_all_too_small_are_said_to_be(cli, make_sites):
    make_sites(labeled=False, num_images=1)
    code, out, _ = cli("init", "sites", "--out", "mine.toml")
    assert code == 0
    assert "warning: each site has fewer than the 2 training images that a site needs;" in out
    code, out, _ = cli("check", "mine.toml")
    assert code == 1
    assert "1 training image, at least 2 are needed; add images\n" in out


def test_init_and_check_name_folders_that_are_no_sites(cli, make_sites):
    root = make_sites(labeled=False)
    (root / "north" / "images").rename(root / "north" / "Images")
    message = (
        "warning: north/Images: 6 images, but no folder 'images'; it is not a site; move them to"
    )
    for arguments in (("init", "sites", "--out", "mine.toml"), ("check", "sites")):
        code, out, _ = cli(*arguments)
        assert code == 0
        assert message in out


def test_check_of_plain_images_names_what_is_wrong_as_init_does(cli, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / os.fsdecode(b"K\xfche.jpg")).touch()
    message = "a name is not valid UTF-8, rename it: 'plain/K\\udcfche.jpg'\n"
    assert cli("init", "plain") == (2, "", f"error: {message}")
    code, out, _ = cli("check", "plain")
    assert code == 1
    assert f"error: plain: {message}" in out
