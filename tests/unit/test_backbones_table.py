import re

import pytest
import torch

from fusseg.config.compute import Compute
from fusseg.core.errors import ConfigError
from fusseg.features.backbones import BACKBONES, load_backbone
from fusseg.features.backbones.backbone import Backbone, check_image_size


def backbone(**settings):
    defaults = {
        "name": "tiny",
        "fingerprint": "0" * 64,
        "feature_dim": 4,
        "stride": 8,
        "center": False,
        "extract": lambda images: images.float(),
    }
    return Backbone(**{**defaults, **settings})


def test_the_weight_free_backbone_loads_by_name():
    loaded = load_backbone("filterbank")
    assert (loaded.name, loaded.stride, loaded.center) == ("filterbank", 8, True)
    assert list(BACKBONES) == [
        "efficientnet-lite2",
        "filterbank",
        "onnx:PATH",
        "FOLDER",
        "OWNER/MODEL",
    ]


def test_the_filter_bank_stays_in_float32_whatever_is_asked_for():
    narrow = load_backbone("filterbank", Compute(torch.device("cpu"), torch.bfloat16))
    assert narrow.precision == "float32"
    images = torch.arange(16 * 16 * 3).reshape(1, 16, 16, 3).to(torch.uint8)
    assert torch.equal(narrow.extract(images), load_backbone("filterbank").extract(images))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("filterbnk", "unknown backbone 'filterbnk'; did you mean 'filterbank'?"),
        ("onnx", "unknown backbone 'onnx'; did you mean 'onnx:PATH'?"),
        ("efficientnet", "unknown backbone 'efficientnet'; did you mean 'efficientnet-lite2'?"),
        (
            "zzz",
            "unknown backbone 'zzz'; choose one of efficientnet-lite2, filterbank, onnx:PATH, "
            "FOLDER, OWNER/MODEL",
        ),
        (
            "nowhere/model.onnx",
            "unknown backbone 'nowhere/model.onnx'; did you mean 'onnx:nowhere/model.onnx'?",
        ),
        (
            "./nowhere/dino",
            "backbone folder './nowhere/dino' does not exist; correct backbone.name",
        ),
    ],
)
def test_unknown_backbone_is_refused(name, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_backbone(name)


def test_image_size_of_whole_positions_passes():
    check_image_size(backbone(), (320, 8))


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((321, 320), "[320, 320] or [328, 320]"),
        ((320, 4), "[320, 8]"),
        ((0, 9), "[8, 8] or [8, 16]"),
    ],
)
def test_image_size_that_is_no_multiple_of_the_stride_is_refused(size, nearest):
    message = (
        f"backbone 'tiny' needs image sides that are multiples of 8, got {list(size)}; "
        f"set data.image_size to {nearest}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_image_size(backbone(), size)


def test_image_size_other_than_the_only_one_is_refused():
    message = (
        "backbone 'tiny' takes only images of [224, 224], got [224, 232]; set data.image_size to "
        "[224, 224]"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_image_size(backbone(image_size=(224, 224)), (224, 232))
