"""EfficientNet-Lite2 against the same network as ONNX, and against torch's own batch norms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import batch_norm, conv2d, interpolate, pad, relu6

from fusseg.features.backbones import load_backbone
from fusseg.features.backbones.backbone import normalize_colors
from fusseg.features.backbones.efficientnet import EFFICIENTNET, build_trunk, find_weights
from fusseg.features.backbones.efficientnet_trunk import Block, convolve, fold

SHARED = Path(__file__).parents[3] / "shared"
GRAPH = SHARED / "weights/efficientnet-lite2-stride8/model.onnx"
PHOTOS = SHARED / "data/camvid/Seq05VD/images"
# Repetitions, kernel, stride, expansion and channels, as in the table of EfficientNet.
STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)


@pytest.fixture(scope="module")
def weights():
    return torch.load(find_weights(), weights_only=True)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


def normed(weights, name, norm, maps, stride=1, dilation=1):
    """A convolution padded as TensorFlow does, and the batch norm after it, not folded."""
    kernel = weights[f"{name}.weight"]
    extent = dilation * (kernel.shape[2] - 1) + 1
    margins = []
    for side in (maps.shape[3], maps.shape[2]):
        # An even side, as in training; odd ones are padded as if they were a pixel longer.
        even = side + side % 2 if stride == 2 else side
        total = (even // stride - 1) * stride + extent - even
        margins += [total // 2, total - total // 2 + (even - side)]
    groups = len(kernel) if kernel.shape[1] == 1 else 1
    maps = conv2d(pad(maps, margins), kernel, None, stride, 0, dilation, groups)
    mean, variance, gain, bias = (
        weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return batch_norm(maps, mean, variance, gain, bias, training=False, eps=1e-3)


def unfolded(weights, pixels, dilated=True):
    """Every block's output, from the table of stages."""
    maps = relu6(normed(weights, "_conv_stem", "_bn0", pixels, stride=2))
    outputs, index, dilation = [], 0, 1
    for stage, (repetitions, kernel, first_stride, expansion, channels) in enumerate(STAGES):
        for repetition in range(repetitions):
            start = f"_blocks.{index}."
            stride = first_stride if repetition == 0 else 1
            keep = dilated and stage == 5 and repetition == 0
            hidden = maps
            if expansion > 1:
                hidden = relu6(normed(weights, f"{start}_expand_conv", f"{start}_bn0", maps))
            assert weights[f"{start}_depthwise_conv.weight"].shape[2] == kernel
            hidden = relu6(
                normed(
                    weights,
                    f"{start}_depthwise_conv",
                    f"{start}_bn1",
                    hidden,
                    stride=1 if keep else stride,
                    dilation=dilation,
                )
            )
            hidden = normed(weights, f"{start}_project_conv", f"{start}_bn2", hidden)
            assert hidden.shape[1] == channels
            maps = hidden + maps if stride == 1 and repetition > 0 else hidden
            dilation = 2 if keep else dilation
            outputs.append(maps)
            index += 1
    return outputs


def as_features(outputs, rows, columns):
    deviations = (1 / 0.09964925050735474, 1 / 0.1406179666519165, 1 / 0.38996145129203796)
    small, medium, large = (outputs[block] for block in (6, 14, 20))
    enlarged = [
        interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
        for maps in (medium, large)
    ]
    parts = [small, *(maps[:, :, :rows, :columns] for maps in enlarged)]
    return torch.cat([part / std for part, std in zip(parts, deviations, strict=True)], dim=1)


@pytest.mark.parametrize("size", [(64, 96), (72, 40), (8, 8)])
def test_folded_batch_norms_equal_torchs_own(weights, size):
    images = noise(2, *size)
    with torch.no_grad():
        outputs = unfolded(weights, normalize_colors(images))
    expected = as_features(outputs, size[0] // 8, size[1] // 8)
    found = load_backbone(EFFICIENTNET).extract(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_dilated_stage_is_the_undilated_one_at_every_second_position(weights):
    # Without its stride a convolution computes the same values and those between them. A filter
    # that is spread by 2 then sees only every second one: those that the strided stage computed.
    images = noise(1, 128, 192)
    with torch.no_grad():
        plain = unfolded(weights, normalize_colors(images), dilated=False)
        maps = plain[14]
        for index in range(15, 21):
            maps = Block(weights, index)(maps)
    assert plain[20].shape[2:] == (4, 6)
    # The first window of the strided stage, of side 5, starts at -1: its center is position 1.
    torch.testing.assert_close(maps[..., 1::2, 1::2], plain[20], rtol=0, atol=1e-4)
    assert not torch.allclose(maps[..., ::2, ::2], plain[20], rtol=0, atol=1)


@pytest.mark.parametrize("size", [(16, 16), (17, 15)])
def test_a_strided_convolution_starts_where_tensorflow_does(weights, size):
    name, norm = "_conv_stem", "_bn0"
    maps = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = convolve(fold(weights, name, norm, stride=2), maps)
        expected = normed(weights, name, norm, maps, stride=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(not GRAPH.is_file(), reason="../shared/weights is absent")
@pytest.mark.parametrize("size", [(64, 72), (328, 472), (360, 480), (8, 8)])
def test_noise_gives_the_features_of_the_onnx_file(size):
    images = noise(2, *size)
    expected = load_backbone(f"onnx:{GRAPH}").extract(images)
    found = load_backbone(EFFICIENTNET).extract(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(
    not (GRAPH.is_file() and PHOTOS.is_dir()), reason="../shared/weights or CamVid is absent"
)
def test_photographs_give_the_features_of_the_onnx_file():
    paths = sorted(PHOTOS.iterdir())[::40]
    assert len(paths) > 2
    own, graph = load_backbone(EFFICIENTNET), load_backbone(f"onnx:{GRAPH}")
    for path in paths:
        with Image.open(path) as photo:
            pixels = np.array(photo.convert("RGB").resize((480, 360)))
        images = torch.from_numpy(pixels)[None]
        torch.testing.assert_close(own.extract(images), graph.extract(images), rtol=0, atol=1e-4)


def test_the_trunk_ends_before_the_classifier(weights):
    used = {name for name in weights if not name.startswith(("_conv_head", "_bn1", "_fc"))}
    trunk = build_trunk({name: weights[name] for name in used})
    # 4.3 million numbers, as in Google's table less the classifier.
    assert 4.2e6 < sum(parameter.numel() for parameter in trunk.parameters()) < 4.4e6
