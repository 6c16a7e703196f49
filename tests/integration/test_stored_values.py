"""12 bits in 16-bit files and near infrared as transparency, up to a prediction."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusseg import Segmenter
from fusseg.config.file import load_config

RUN = ("--set", "local.steps=2", "--set", "federation.rounds=1", "--set", "model.num_clusters=2")


def photo(seed, top):
    """A bright half and a dark one, with noise, from 0 up to a value."""
    noise = np.random.default_rng(seed).random((64, 96, 3)) * 0.4
    noise[:, 48:] += 0.6
    noise[0, 0], noise[0, 1] = 0, 1
    return np.round(noise * top)


@pytest.fixture
def twelve_bits(tmp_path):
    root = tmp_path / "twelve"
    for site in "ab":
        (root / site / "images").mkdir(parents=True)
        for index in range(3):
            values = photo(index, 4095)[:, :, 0].astype(np.uint16)
            Image.fromarray(values).save(root / site / "images" / f"{index}.png")
    return root


@pytest.fixture
def near_infrared(tmp_path):
    root = tmp_path / "nir"
    for site in "ab":
        (root / site / "images").mkdir(parents=True)
        for index in range(3):
            rgb = photo(index, 255)
            bands = np.concatenate([rgb, 255 - rgb[::-1, :, :1]], axis=2).astype(np.uint8)
            tifffile.imwrite(
                root / site / "images" / f"{index}.tif",
                bands,
                photometric="rgb",
                extrasamples=["unassalpha"],
            )
    return root


def test_12_bits_are_named_until_the_white_level_says_so(cli, twelve_bits, tmp_path):
    config, run = tmp_path / "c.toml", tmp_path / "run"
    for arguments in (
        ("check", twelve_bits),
        ("init", twelve_bits, "--out", config),
        ("run", config, "--out", tmp_path / "dark", *RUN),
    ):
        code, out, err = cli(*arguments)
        assert code == 0, err
        for site in "ab":
            assert f"warning: {site}: 16-bit gray images use 0 to 4095 of 65535 (12 bits)" in out
        assert "set data.white_level = 4095" in out
    code, out, err = cli("run", config, "--out", run, *RUN, "--set", "data.white_level=4095")
    assert code == 0, err
    assert "extracting features" in out
    assert "warning" not in out
    assert load_config(run / "config.toml").data.white_level == 4095
    code, out, err = cli("check", run / "config.toml")
    assert "bits)" not in out


def test_all_that_uses_a_run_decodes_as_it_did(cli, twelve_bits, tmp_path):
    config, run = tmp_path / "c.toml", tmp_path / "run"
    cli("init", twelve_bits, "--out", config)
    cli("run", config, "--out", run, *RUN, "--set", "data.white_level=4095")
    model = tmp_path / "m.safetensors"
    assert cli("pack", run, "--out", model)[0] == 0
    # The same pictures in 8 bits: what a run of the white level 4095 sees.
    plain = tmp_path / "plain"
    plain.mkdir()
    for index in range(3):
        values = photo(index, 4095)[:, :, 0]
        shades = np.floor(values / 4095 * 255 + 0.5).astype(np.uint8)
        Image.fromarray(shades).save(plain / f"{index}.png")
    found = []
    for source, images in (
        (run, twelve_bits / "a/images"),
        (model, twelve_bits / "a/images"),
        (run, plain),
    ):
        out = tmp_path / f"out{len(found)}"
        code, said, err = cli("predict", source, images, "--out", out)
        assert code == 0, err
        assert "warning" not in said
        found.append([np.array(Image.open(out / f"{index}.png")) for index in range(3)])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    path = twelve_bits / "a/images/0.png"
    np.testing.assert_array_equal(Segmenter.load(model).predict(path).regions, found[0][0])
    code, _, err = cli("adapt", run, twelve_bits, "--out", tmp_path / "adapted")
    assert code == 0, err
    assert load_config(tmp_path / "adapted/config.toml").data.white_level == 4095


def test_a_prediction_of_another_range_than_training_is_doubted(cli, twelve_bits, tmp_path):
    config, run = tmp_path / "c.toml", tmp_path / "run"
    cli("init", twelve_bits, "--out", config)
    cli("run", config, "--out", run, *RUN)
    record = json.loads((run / "record.json").read_text())
    assert record["stored_values"] == [
        {"gray": True, "largest": 65535, "white": 65535, "highest": 4095}
    ]
    code, out, _ = cli("predict", run, twelve_bits / "a/images", "--out", tmp_path / "same")
    assert (code, "warning" in out) == (0, False)
    full = tmp_path / "full.png"
    Image.fromarray(photo(0, 65534)[:, :, 0].astype(np.uint16)).save(full)
    code, out, _ = cli("predict", run, full, "--out", tmp_path / "other")
    assert code == 0
    assert "warning: 16-bit gray: these images use 0 to 65534 of 65535, 100% of the range" in out
    assert "while the training images used 6%" in out


def test_near_infrared_is_named_until_transparency_is_ignored(cli, near_infrared, tmp_path):
    config, run = tmp_path / "c.toml", tmp_path / "run"
    for arguments in (
        ("check", near_infrared),
        ("init", near_infrared, "--out", config),
        ("run", config, "--out", tmp_path / "blended", *RUN),
        ("predict", tmp_path / "blended", near_infrared / "a/images", "--out", tmp_path / "p"),
    ):
        code, out, err = cli(*arguments)
        assert code == 0, err
        assert "in 3 of 3 images the last band is flagged as transparency" in out
        assert 'set data.alpha_channel = "ignore"' in out
    code, out, err = cli("run", config, "--out", run, *RUN, "--set", "data.alpha_channel=ignore")
    assert code == 0, err
    assert "extracting features" in out
    assert "warning" not in out
    code, out, _ = cli("predict", run, near_infrared / "a/images", "--out", tmp_path / "q")
    assert (code, "warning" in out) == (0, False)
