"""Views, flip averaging, CRF and linear probe from the command line, on a tiny folder of sites."""

import json

import numpy as np
import pytest
from PIL import Image

PROTOCOL = """
[evaluation]
image_size = [32, 32]
whole = true
flip = true
crf = true
every = 0
"""


@pytest.fixture
def train(cli, make_config, tmp_path):
    """Train with an evaluation of its own; where the run is."""

    def run(root, more=""):
        config = make_config(root, more=more)
        code, _, err = cli("run", config, "--out", tmp_path / "run", "--set", "federation.rounds=1")
        assert (code, err) == (0, "")
        return tmp_path / "run"

    return run


def scores_of(cli, tmp_path, run_dir, *options):
    code, out, err = cli("evaluate", run_dir, "--json", tmp_path / "scores.json", *options)
    assert (code, err) == (0, "")
    return json.loads((tmp_path / "scores.json").read_text()), out


def counted_pixels(final):
    return int(np.sum(final["confusion"]))


def test_a_run_and_its_evaluation_score_the_view_that_the_configuration_asks_for(
    cli, make_sites, train, tmp_path
):
    root = make_sites(num_images=4)
    # One held-out image of another shape: 64 x 64 becomes 32 x 32, 64 x 96 becomes 32 x 48.
    for folder in ("images", "masks"):
        path = root / "west" / folder / "000.png"
        Image.open(path).crop((0, 0, 64, 64)).save(path)
    run_dir = train(root, PROTOCOL)
    record = json.loads((run_dir / "record.json").read_text())
    assert record["protocol"] == {
        "image_size": [32, 32],
        "whole": True,
        "fit": "crop",
        "image_interpolation": "bilinear",
        "white_level": None,
        "alpha_channel": None,
        "label_interpolation": "nearest",
        "flip": True,
        "crf": True,
    }
    assert counted_pixels(record["final"]) == 32 * 32 + 3 * 32 * 48
    assert (run_dir / "report.html").read_text().count("data:image/jpeg") >= 4
    found, out = scores_of(cli, tmp_path, run_dir)
    assert "scored at 32 x 32 pixels, images whole, with flip averaging, with CRF" in out
    page = " ".join((run_dir / "report.html").read_text().split())
    assert "Scored at 32 x 32 pixels, images whole, with flip averaging, with CRF." in page
    assert found["protocol"] == record["protocol"]
    assert found["confusion"] == record["final"]["confusion"]
    assert found["mean_iou_stego"] == record["final"]["mean_iou_stego"]
    assert f"mIoU as STEGO defines it, for published figures: {found['mean_iou_stego']:.4f}" in out


def test_a_center_crop_of_another_size_changes_what_is_scored_and_not_what_is_learned(
    cli, make_sites, make_config, tmp_path
):
    config = make_config(make_sites())
    cli("run", config, "--out", tmp_path / "a", "--set", "federation.rounds=1")
    more = ["--set", "federation.rounds=1", "--set", "evaluation.image_size=[64, 64]"]
    cli("run", config, "--out", tmp_path / "b", *more)
    assert (tmp_path / "a" / "state.safetensors").read_bytes() == (
        tmp_path / "b" / "state.safetensors"
    ).read_bytes()
    finals = [json.loads((tmp_path / name / "record.json").read_text())["final"] for name in "ab"]
    assert [counted_pixels(final) for final in finals] == [6 * 64 * 96, 6 * 64 * 64]


def test_a_linear_probe_finds_the_materials_in_features_and_codes(cli, make_sites, train, tmp_path):
    run_dir = train(make_sites())
    found, out = scores_of(cli, tmp_path, run_dir, "--probe")
    assert found["probe"]["features"]["mean_iou"] > 0.8
    assert 0.5 < found["probe"]["codes"]["mean_iou"] <= 1
    assert found["probe"]["models"] == []
    for name in ("features", "codes"):
        iou, accuracy = (found["probe"][name][key] for key in ("mean_iou", "pixel_accuracy"))
        assert (
            f"linear probe on {name}, trained on labels: mIoU {iou:.4f}, accuracy {accuracy:.4f} "
            "of the positions" in out
        )
    without, _ = scores_of(cli, tmp_path, run_dir)
    assert without == {key: value for key, value in found.items() if key != "probe"}


def test_each_own_model_is_probed(cli, make_sites, train, tmp_path):
    run_dir = train(make_sites(), 'strategy = "local"\n')
    found, _ = scores_of(cli, tmp_path, run_dir, "--probe")
    models = found["probe"]["models"]
    assert [model["client_id"] for model in models] == ["north", "south"]
    for key in ("mean_iou", "pixel_accuracy"):
        mean = (models[0][key] + models[1][key]) / 2
        assert found["probe"]["codes"][key] == pytest.approx(mean)


def test_a_probe_needs_labeled_training_images(cli, make_sites, train, tmp_path):
    root = make_sites()
    for site in ("north", "south"):
        for mask in (root / site / "masks").iterdir():
            mask.unlink()
    run_dir = train(root)
    code, _, err = cli("evaluate", run_dir, "--probe")
    assert code != 0
    assert err.strip() == (
        "error: a linear probe needs labels, but none of the 12 training images has a mask; leave "
        "--probe out"
    )
