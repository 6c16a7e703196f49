import json

import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity

from fusseg.config.compute import Compute
from fusseg.features.backbones import load_backbone
from fusseg.features.backbones.backbone import normalize_colors

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "patch_size": 8, "image_size": 32}
MODELS = {
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**SIZES)),
    "vit_msn": lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig(**SIZES)),
    "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**SIZES)),
    "ijepa": lambda: transformers.IJepaModel(transformers.IJepaConfig(**SIZES)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SIZES)),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3)
    ),
    "dinov3_vit": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=4)
    ),
}
TOKENS_BEFORE_PATCHES = {
    "vit": 1,
    "vit_msn": 1,
    "deit": 2,
    "ijepa": 0,
    "dinov2": 1,
    "dinov2_with_registers": 1 + 3,
    "dinov3_vit": 1 + 4,
}
INTERPOLATE = {
    kind: {"interpolate_pos_encoding": True} for kind in ("vit", "vit_msn", "deit", "ijepa")
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw(model):
    """Give every tensor random values, those that start as zeros or ones too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = draw(MODELS[request.param]())
    model.save_pretrained(folder)
    return request.param, model, folder


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(32, 32), (24, 56), (64, 16)])
def test_features_are_the_patch_tokens_of_the_model_called_by_hand(saved, size):
    kind, model, folder = saved
    images = noise(2, *size)
    pixels = images.permute(0, 3, 1, 2) / 255.0
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        tokens = model(pixel_values=pixels, **INTERPOLATE.get(kind, {})).last_hidden_state

    backbone = load_backbone(str(folder))
    features = backbone.extract(images)
    assert (backbone.feature_dim, backbone.stride, backbone.center) == (24, 8, False)
    assert features.shape == (2, 24, size[0] // 8, size[1] // 8)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    columns = size[1] // 8
    for y in range(size[0] // 8):
        for x in range(columns):
            token = tokens[:, TOKENS_BEFORE_PATCHES[kind] + y * columns + x]
            assert torch.allclose(features[:, :, y, x], token, atol=1e-5)
    assert tokens.shape[1] == TOKENS_BEFORE_PATCHES[kind] + features[0, 0].numel()


def test_a_position_sees_its_own_patch(saved, tmp_path):
    """With attention and feed-forward layers silenced, a patch reaches its own token only."""
    _, model, folder = saved
    silenced = model.__class__.from_pretrained(folder)
    with torch.no_grad():
        for key, tensor in silenced.named_parameters():
            if "layer" in key and "norm" not in key:
                tensor.zero_()
    silenced.save_pretrained(tmp_path)
    image = noise(1, 24, 40)
    changed = image.clone()
    changed[:, 8:16, 24:32] = 255 - changed[:, 8:16, 24:32]
    backbone = load_backbone(str(tmp_path))
    difference = (backbone.extract(image) - backbone.extract(changed)).abs().sum(dim=1)[0]
    assert difference[1, 3] > 0.1
    difference[1, 3] = 0
    assert difference.max() < 1e-5


def test_bfloat16_features_are_float32_and_point_where_the_exact_ones_do(saved):
    folder, images = str(saved[2]), noise(2, 32, 40)
    exact = load_backbone(folder)
    narrow = load_backbone(folder, Compute(torch.device("cpu"), torch.bfloat16))
    assert (exact.precision, narrow.precision) == ("float32", "bfloat16")
    assert narrow.fingerprint == exact.fingerprint
    expected, found = exact.extract(images), narrow.extract(images)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert float(cosine_similarity(found, expected, dim=1).min()) > 0.999


def test_weights_rounded_once_give_the_bits_of_autocast(saved):
    kind, model, folder = saved
    narrow = load_backbone(str(folder), Compute(torch.device("cpu"), torch.bfloat16))
    images = noise(1, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pixels = normalize_colors(images)
        tokens = model(pixel_values=pixels, **INTERPOLATE.get(kind, {})).last_hidden_state
    patches = tokens[0, TOKENS_BEFORE_PATCHES[kind] :].float()
    assert torch.equal(narrow.extract(images)[0].flatten(1).T, patches)


def test_features_of_an_image_hardly_depend_on_its_batch(saved):
    backbone = load_backbone(str(saved[2]))
    images = noise(3, 24, 40)
    together = backbone.extract(images)
    assert torch.allclose(together[1:2], backbone.extract(images[1:2]), atol=1e-5)


def test_loading_twice_gives_the_same_fingerprint_and_changed_weights_another(saved, tmp_path):
    _, model, folder = saved
    first = load_backbone(str(folder)).fingerprint
    assert load_backbone(str(folder)).fingerprint == first
    changed = model.__class__.from_pretrained(folder)
    with torch.no_grad():
        next(p for k, p in changed.named_parameters() if k.endswith("norm.weight"))[0] += 1e-3
    changed.save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path)).fingerprint != first


def test_normalization_is_that_of_the_preprocessor(tmp_path):
    model = draw(MODELS["vit"]())
    model.save_pretrained(tmp_path)
    plain = load_backbone(str(tmp_path))
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    images = noise(1, 32, 32)
    pixels = images.permute(0, 3, 1, 2) / 255.0
    pixels = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    with torch.no_grad():
        tokens = model(pixel_values=pixels).last_hidden_state
    backbone = load_backbone(str(tmp_path))
    assert torch.allclose(
        backbone.extract(images), tokens[:, 1:].mT.reshape(1, 24, 4, 4), atol=1e-5
    )
    assert backbone.fingerprint != plain.fingerprint

    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    with torch.no_grad():
        tokens = model(pixel_values=images.permute(0, 3, 1, 2) / 255.0).last_hidden_state
    features = load_backbone(str(tmp_path)).extract(images)
    assert torch.allclose(features, tokens[:, 1:].mT.reshape(1, 24, 4, 4), atol=1e-5)


def test_old_weights_of_bin_load_without_running_code(tmp_path):
    model = draw(MODELS["vit"]())
    model.save_pretrained(tmp_path)
    expected = load_backbone(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert load_backbone(str(tmp_path)).fingerprint == expected.fingerprint


def test_a_classifier_is_loaded_without_its_head(tmp_path):
    config = transformers.Dinov2Config(**SIZES)
    classifier = draw(transformers.Dinov2ForImageClassification(config))
    classifier.save_pretrained(tmp_path / "classifier")
    classifier.dinov2.save_pretrained(tmp_path / "alone")
    images = noise(1, 32, 32)
    features = [
        load_backbone(str(tmp_path / folder)).extract(images) for folder in ("classifier", "alone")
    ]
    assert torch.equal(*features)
