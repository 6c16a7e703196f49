"""Every kind of ViT as an ONNX graph; or, where torch cannot trace it, a word that it differs."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from fusseg import load_run, pick_segmenter, segment_image

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
import onnxruntime

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 8, "patch_size": 8, "image_size": 64}
MODELS = {
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**SIZES)),
    "vit_msn": lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig(**SIZES)),
    "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**SIZES)),
    "ijepa": lambda: transformers.IJepaModel(transformers.IJepaConfig(**SIZES)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SIZES)),
    "dinov3_vit": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=4)
    ),
}


UNTRACED = "dinov2_with_registers"
"""Torch traces it for one size only."""
MODELS[UNTRACED] = lambda: transformers.Dinov2WithRegistersModel(
    transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3)
)
COMMANDS = """
import json, sys
from fusseg.cli.app import main

for arguments in json.load(sys.stdin):
    sys.argv = ["fusseg", *arguments]
    try:
        main()
    except SystemExit as stop:
        print("\\nexit status", stop.code or 0, flush=True)
"""
"""Runs commands one after another: a process for each would mostly import the exporter."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, write_sites, write_config):
    """Train on tiny models with random weights and export them: status and output, run, file."""
    folder = tmp_path_factory.mktemp("exported")
    sites, commands, places = write_sites(folder / "sites"), [], []
    for kind, make in MODELS.items():
        torch.manual_seed(0)
        make().save_pretrained(folder / kind)
        more = f"[backbone]\nname = {json.dumps(str(folder / kind))}"
        config = write_config(folder / f"{kind}.toml", sites, more=more)
        run_dir, file = folder / f"run-{kind}", folder / f"{kind}.onnx"
        once = ["--set", "federation.rounds=1"]
        commands += [["run", str(config), *once, "--out", str(run_dir)]]
        commands += [["export", str(run_dir), "--out", str(file)]]
        places.append((run_dir, file))
    # Not in this process: the checks of shapes in tests stop torch from tracing.
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "FUSSEG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        text=True,
        timeout=600,
        check=True,
    )
    *parts, rest = re.split(r"\nexit status (\d+)\n", done.stdout)
    assert rest == ""
    said = [(int(code), out) for out, code in zip(parts[::2], parts[1::2], strict=True)]
    for code, out in said[::2]:
        assert code == 0, out
        # A process shows a warning once: one in a run would be missing in what the export says.
        assert "Warning" not in out
    return dict(zip(MODELS, zip(said[1::2], places, strict=True), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != UNTRACED])
def test_a_vit_is_exported_with_any_batch_and_size(kind, exported):
    (code, out), (run_dir, file) = exported[kind]
    assert code == 0, out
    assert "Warning" not in out
    run = load_run(run_dir)
    segmenter = pick_segmenter(run, site=None)
    graph = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for height, width, batch in ((64, 96, 1), (50, 131, 3), (200, 120, 2)):
        generator = np.random.default_rng(height)
        images = generator.integers(0, 256, (batch, height, width, 3)).astype(np.uint8)
        regions, similarities = graph.run(None, {"image": images})
        assert similarities.shape[:2] == (batch, 2)
        for image, found in zip(images, regions, strict=True):
            assert (found == segment_image(image, run, segmenter)).mean() > 0.99


def test_a_vit_that_cannot_be_traced_is_not_kept(exported):
    (code, out), (_, file) = exported[UNTRACED]
    assert code == 2
    assert "shape (1, 64, 96, 3) and is not written" in out
    assert not file.exists()
