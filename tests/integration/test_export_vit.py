"""Every kind of ViT as an ONNX graph; or, where torch cannot trace it, a word that it differs."""

import json

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


@pytest.fixture
def export(cli, start_cli, make_sites, make_config, tmp_path):
    """Train on a tiny model with random weights and export it; exit status, output, run, file."""

    def make(model):
        model.save_pretrained(tmp_path / "vit")
        name = json.dumps(str(tmp_path / "vit"))
        config = make_config(make_sites(), more=f"[backbone]\nname = {name}")
        run_dir, file = tmp_path / "run", tmp_path / "model.onnx"
        assert cli("run", config, "--set", "federation.rounds=1", "--out", run_dir)[0] == 0
        # In a process of its own: the checks of shapes in tests stop torch from tracing.
        process = start_cli("export", run_dir, "--out", file)
        out, _ = process.communicate(timeout=300)
        return process.returncode, out, run_dir, file

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_a_vit_is_exported_with_any_batch_and_size(kind, export):
    torch.manual_seed(0)
    code, out, run_dir, file = export(MODELS[kind]())
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


def test_a_vit_that_cannot_be_traced_is_not_kept(export):
    torch.manual_seed(0)
    config = transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3)
    code, out, _, file = export(transformers.Dinov2WithRegistersModel(config))
    assert code == 2
    assert "shape (1, 64, 96, 3) and is not written" in out
    assert not file.exists()
