import json
import pickle
import re
import shutil
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fusseg.core.errors import ConfigError
from fusseg.features.backbones import load_backbone
from fusseg.features.backbones.backbone import normalize_colors
from fusseg.features.backbones.preprocessor import read_normalization

SCALAR = Path(__file__).parents[3] / "shared/cases/scalar-image-mean"
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 8, "patch_size": 8, "image_size": 16}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "dino")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def refused(name, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_backbone(str(name))


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_weights_that_cannot_be_fetched_are_named_with_the_commands(offline):
    start = time.monotonic()
    refused(
        "facebook/dino-vitb8",
        "there is no folder 'facebook/dino-vitb8', and its weights are not in the cache of "
        "the Hugging Face hub and cannot be fetched from the hub; on a machine with a network run\n"
        "    pip install huggingface_hub\n"
        "    hf download facebook/dino-vitb8 --local-dir dino-vitb8\n"
        "then copy the folder dino-vitb8 here and set backbone.name to its path",
    )
    assert time.monotonic() - start < 60


def test_a_model_in_the_cache_of_the_hub_needs_no_network(offline, tiny):
    commit = "0123456789012345678901234567890123456789"
    repository = offline / "models--someone--tiny"
    shutil.copytree(tiny, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    backbone = load_backbone("someone/tiny")
    assert backbone.name == "someone/tiny"
    assert backbone.fingerprint == load_backbone(str(tiny)).fingerprint


def test_a_cached_model_without_weights_is_not_taken(offline, tiny):
    commit = "0123456789012345678901234567890123456789"
    repository = offline / "models--someone--tiny"
    (repository / "snapshots" / commit).mkdir(parents=True)
    shutil.copy(tiny / "config.json", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    with pytest.raises(ConfigError, match="hf download someone/tiny --local-dir tiny"):
        load_backbone("someone/tiny")


def test_a_name_the_hub_does_not_allow_is_refused():
    with pytest.raises(
        ConfigError, match=r"^there is no folder 'a--b/c', and it is not an ID on the"
    ):
        load_backbone("a--b/c")


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    refused(
        folder,
        f"backbone folder '{folder}' has no config.json; it must hold a ViT as transformers "
        "saves it",
    )


@pytest.mark.parametrize("kind", ["bert", "resnet", None])
def test_a_model_that_is_no_vit_is_refused(folder, kind):
    edit_config(folder, model_type=kind)
    refused(
        folder,
        f"backbone '{folder}' has model_type {kind!r}; it must be one of vit, vit_msn, deit, "
        "ijepa, dinov2, dinov2_with_registers, dinov3_vit; export other encoders to ONNX",
    )


def test_a_config_that_is_not_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    refused(
        folder,
        f"'{folder}/config.json' is not JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
    )


def test_a_config_that_is_no_object_is_refused(folder):
    (folder / "config.json").write_text("[]")
    refused(folder, f"'{folder}/config.json' must hold a JSON object, got list")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refused(
        folder,
        f"backbone folder '{folder}' has no weights; put model.safetensors "
        "(or pytorch_model.bin) beside its config.json",
    )


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(
        folder,
        f"weights of backbone '{folder}' cannot be loaded: Error while deserializing header: "
        f"incomplete metadata, file not fully covered; download '{folder}' again",
    )


def test_weights_of_another_shape_are_refused(folder):
    edit_config(folder, hidden_size=16)
    with pytest.raises(ConfigError, match=rf"^weights of backbone '{folder}' cannot be loaded: "):
        load_backbone(str(folder))


def test_partial_weights_are_refused(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["layernorm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    refused(
        folder,
        f"weights of backbone '{folder}' lack 1 tensors, such as 'layernorm.weight'; "
        f"download '{folder}' again",
    )


def test_a_pickle_that_would_run_code_is_refused(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return marker.touch, ()

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(ConfigError, match=rf"^weights of backbone '{folder}' cannot be loaded: "):
        load_backbone(str(folder))
    assert not marker.exists()


def test_patches_that_are_not_square_are_refused(tmp_path):
    config = transformers.ViTConfig(**SIZES | {"patch_size": [8, 4]})
    transformers.ViTModel(config).save_pretrained(tmp_path)
    refused(
        tmp_path,
        f"backbone '{tmp_path}' must have square patches and 3 input channels, "
        "got patches of (8, 4) and 3 channels",
    )


NORMALIZED = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def expected_by_transformers(settings, pixels):
    """Let transformers' own processor prepare pixels."""
    processor = transformers.ViTImageProcessor(**settings | {"do_resize": False})
    return processor(pixels, return_tensors="pt")["pixel_values"].float()


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": 0.5, "image_std": 0.5},
        {"image_mean": 0, "image_std": 1},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": 0.25},
        NORMALIZED,
        NORMALIZED | {"do_normalize": None, "do_rescale": None, "rescale_factor": None},
        NORMALIZED | {"do_normalize": True, "do_rescale": True, "rescale_factor": 0.00392156862745},
        NORMALIZED | {"do_normalize": False},
        NORMALIZED | {"do_rescale": False},
        NORMALIZED | {"rescale_factor": 1 / 127.5},
        {"do_normalize": False, "do_rescale": False},
        NORMALIZED | {"size": {"height": 224, "width": 224}, "resample": 3, "do_resize": True},
    ],
)
def test_pixels_are_prepared_as_transformers_does(settings):
    pixels = torch.randint(0, 256, (1, 16, 24, 3), dtype=torch.uint8)
    mean, std = read_normalization(settings, Path("preprocessor_config.json"))
    told = {name: value for name, value in settings.items() if value is not None}
    expected = expected_by_transformers(told, pixels.permute(0, 3, 1, 2))
    assert torch.allclose(normalize_colors(pixels, mean, std), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": [0.5, 0.5], "image_std": [0.5, 0.5]}, r"got image_mean \(0.5, 0.5\)"),
        ({"image_mean": 0.5, "image_std": 0}, "3 standard deviations above 0, or one of each"),
        ({"image_mean": "0.5", "image_std": 0.5}, "must hold 3 means"),
        ({"image_mean": True, "image_std": 0.5}, "must hold 3 means"),
        ({"image_mean": float("nan"), "image_std": 0.5}, "must hold 3 means"),
        ({"image_mean": [[0.5], 0.5, 0.5], "image_std": 0.5}, "must hold 3 means"),
        ({"image_mean": 0.5}, "must hold image_mean and image_std .* got image_mean 0.5 and"),
        ({}, "must hold image_mean and image_std"),
        (NORMALIZED | {"do_normalize": "no"}, "do_normalize must be true or false, got 'no'"),
        (NORMALIZED | {"do_rescale": 0}, "do_rescale must be true or false, got 0"),
        (NORMALIZED | {"rescale_factor": 0}, "rescale_factor must be a number above 0, got 0"),
        (NORMALIZED | {"do_flip_channel_order": True}, "asks for do_flip_channel_order, which"),
    ],
)
def test_a_preprocessor_that_cannot_be_honored_is_refused(folder, settings, message):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message) as refusal:
        load_backbone(str(folder))
    assert str(path) in str(refusal.value)


@pytest.mark.skipif(not SCALAR.is_dir(), reason="../shared/cases is absent")
def test_a_scalar_mean_counts_for_all_channels():
    backbone = load_backbone(str(SCALAR))
    images = torch.randint(0, 256, (1, 16, 24, 3), dtype=torch.uint8)
    model = transformers.ViTModel.from_pretrained(SCALAR, add_pooling_layer=False).eval()
    with torch.no_grad():
        pixels = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        tokens = model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    expected = tokens.transpose(1, 2).reshape(1, 32, 2, 3)
    assert torch.allclose(backbone.extract(images), expected, atol=1e-5)


def test_an_image_of_broken_patches_is_refused(folder):
    backbone = load_backbone(str(folder))
    with pytest.raises(ConfigError, match=r"multiples of 8, got \[20, 16\]"):
        backbone.extract(torch.zeros(1, 20, 16, 3, dtype=torch.uint8))


def test_nothing_is_printed_while_loading(folder, capfd):
    load_backbone(str(folder))
    assert capfd.readouterr() == ("", "")
