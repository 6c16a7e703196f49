"""Masks that cannot be scored as they are: what init, check and run say of the same folder."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

FAST = ("--set", "local.steps=2", "--set", "federation.rounds=1")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def masks(make_sites, tmp_path):
    """Two labeled sites without classes.toml; their masks."""
    make_sites(num_images=4)
    (tmp_path / "sites" / "classes.toml").unlink(missing_ok=True)
    return sorted(path.relative_to(tmp_path) for path in tmp_path.glob("sites/*/masks/*.png"))


def refused(cli, *fragments):
    """Have init warn of it, check call it an error, and run stop before training."""
    code, out, err = cli("init", "sites", "--out", "mine.toml")
    assert code == 0
    warning = next(line for line in out.splitlines() if line.startswith("warning: "))
    code, out, _ = cli("check", "mine.toml")
    assert code == 1
    error = next(line for line in out.splitlines() if line.startswith("error: "))
    code, _, err = cli("run", "mine.toml", "--out", "run", *FAST)
    assert code == 2
    for fragment in fragments:
        assert fragment in warning
        assert fragment in error
        assert fragment in err.splitlines()[-1]


def scores(cli, tmp_path):
    assert cli("init", "sites", "--out", "mine.toml")[0] == 0
    assert cli("check", "mine.toml")[0] == 0
    assert cli("run", "mine.toml", "--out", "run", *FAST)[0] == 0
    return json.loads((tmp_path / "run" / "record.json").read_text())["final"]["per_class_iou"]


def test_masks_as_jpeg_are_refused_everywhere(cli, masks):
    for path in masks:
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    refused(cli, "mask is a JPEG file", str(masks[0].with_suffix(".jpg")))


def test_smoothed_masks_are_refused_everywhere(cli, masks):
    for path in masks:
        white = np.asarray(Image.open(path)) * np.uint8(255)
        Image.fromarray(white).filter(ImageFilter.GaussianBlur(1)).save(path)
    refused(cli, "smoothed, scaled, or once stored as JPEG", "classes.toml", str(masks[0]))


def test_black_and_white_masks_are_refused_everywhere(cli, masks):
    for path in masks:
        Image.fromarray(np.asarray(Image.open(path)) * np.uint8(255)).save(path)
    refused(cli, "0 and 255, and 255 is ignored", "ignore_index = 255", str(masks[0]))


def test_lossless_tiff_masks_score_as_their_png_do(cli, masks, tmp_path):
    expected = scores(cli, tmp_path)
    (tmp_path / "mine.toml").unlink()
    (tmp_path / "run").rename(tmp_path / "first")
    for path in masks:
        Image.open(path).save(path.with_suffix(".tif"), compression="tiff_lzw")
        path.unlink()
    assert scores(cli, tmp_path) == expected
