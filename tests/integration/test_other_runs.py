"""Whole runs with what the other tests leave out: a ViT from a folder, streets, small clients."""

import json

import pytest
import torch
from transformers import ViTConfig, ViTModel


def final_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())["final"]


@pytest.fixture
def vit_folder(tmp_path):
    """A tiny ViT with random weights, as transformers saves it."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_vit_of_a_local_folder_trains_uncentered(
    cli, make_sites, make_config, tmp_path, vit_folder
):
    config = make_config(make_sites())
    name = f"backbone.name={vit_folder}"
    code, _, err = cli("run", config, "--set", name, "--out", tmp_path / "run")
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["backbone"]["centered"] is False
    assert (record["backbone"]["feature_dim"], record["backbone"]["stride"]) == (16, 8)
    assert record["final"]["mean_iou"] > 0


def test_generated_streets_run_with_every_site_held_out_in_turn(cli, make_config, tmp_path):
    sets = (
        'data.layout="synthetic"',
        'data.scenes="streets"',
        "data.images_per_site=4",
        "model.num_clusters=7",
        "local.steps=2",
        "federation.rounds=1",
    )
    settings = [part for setting in sets for part in ("--set", setting)]
    for site in ("avenue", "dusk"):
        config = make_config(tmp_path, held_out=(site,))
        code, _, err = cli("run", config, *settings, "--out", tmp_path / site)
        assert (code, err) == (0, "")
        final = final_of(tmp_path / site)
        assert list(final["sites"]) == [site]
        assert len(final["per_class_iou"]) == 7


def test_a_site_smaller_than_a_batch_takes_part(cli, make_sites, make_config, tmp_path):
    root = make_sites()
    for image in sorted((root / "north" / "images").iterdir())[2:]:
        image.unlink()
    config = make_config(root)
    code, _, err = cli("run", config, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    clients = json.loads((tmp_path / "run" / "record.json").read_text())["clients"]
    assert clients[0] == {"client_id": "north", "num_images": 2}
