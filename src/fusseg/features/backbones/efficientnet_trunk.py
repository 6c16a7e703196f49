"""The convolutions of EfficientNet-Lite2, up to three feature maps."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu6

NUM_BLOCKS = 21
STRIDE = 8
"""Pixels per position."""
FEATURE_DIM = 520
"""Channels of the three taps: 48, 120 and 352."""
TAPS = {6: 0.09964925050735474, 14: 0.1406179666519165, 20: 0.38996145129203796}
"""Blocks whose output is a part of the features, and 1 / the standard deviation of its values in
photographs, so that no part outweighs the others in a cosine."""
HALVING = (1, 4, 7)
"""Blocks with stride 2, after the stem's."""
FIRST_DILATED = 16
"""Block 15 halved the map when the weights were trained. Here it does not, so the filters of the
blocks after it are spread by 2 and cover the same pixels (DeepLab, arXiv 1606.00915)."""
EPSILON = 1e-3
"""Added to the variance in a batch norm, as in the training of the weights."""
_NORM = ("weight", "bias", "running_mean", "running_var")


class Block(nn.Module):
    """An inverted residual block: expand, filter each channel, project (arXiv 1801.04381)."""

    def __init__(self, weights: Mapping[str, Tensor], index: int) -> None:
        super().__init__()
        start = f"_blocks.{index}."
        stride, dilation = 1 + (index in HALVING), 1 + (index >= FIRST_DILATED)
        self.expand = None
        if index:
            self.expand = fold(weights, f"{start}_expand_conv", f"{start}_bn0")
        self.filter = fold(
            weights, f"{start}_depthwise_conv", f"{start}_bn1", stride=stride, dilation=dilation
        )
        self.project = fold(weights, f"{start}_project_conv", f"{start}_bn2")
        dims = (self.expand or self.filter).in_channels, self.project.out_channels
        self.adds_input = stride == 1 and dims[0] == dims[1]

    def forward(
        self, maps: Float[Tensor, "batch dim_in rows columns"]
    ) -> Float[Tensor, "batch dim_out rows_out columns_out"]:
        """Compute the block's output, added to its input if both have the same form."""
        hidden = maps if self.expand is None else relu6(self.expand(maps), inplace=True)
        outputs: Tensor = self.project(relu6(convolve(self.filter, hidden), inplace=True))
        return maps + outputs if self.adds_input else outputs


class Trunk(nn.Module):
    """EfficientNet-Lite2 without its classifier (arXiv 1905.11946; Lite: ReLU6, no attention)."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = fold(weights, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList(Block(weights, index) for index in range(NUM_BLOCKS))

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 520 h w"]:
        """Compute float32 features; sides must be multiples of 8."""
        rows, columns = pixels.shape[2] // STRIDE, pixels.shape[3] // STRIDE
        maps, taps = relu6(convolve(self.stem, pixels), inplace=True), []
        for index, block in enumerate(self.blocks):
            maps = block(maps)
            if index in TAPS:
                tap = maps.float()
                if index > HALVING[-1]:
                    # One row or column too many if their number is odd.
                    tap = interpolate(tap, scale_factor=2, mode="bilinear")[..., :rows, :columns]
                taps.append(tap * TAPS[index])
        return torch.cat(taps, dim=1)


def weight_names() -> list[str]:
    """List the tensors of a file of weights that the trunk uses."""
    pairs = [("_conv_stem", "_bn0")]
    for index in range(NUM_BLOCKS):
        layers = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        pairs += [
            (f"_blocks.{index}.{convolution}", f"_blocks.{index}.{norm}")
            for convolution, norm in layers[index == 0 :]
        ]
    return [
        name
        for convolution, norm in pairs
        for name in (f"{convolution}.weight", *(f"{norm}.{part}" for part in _NORM))
    ]


def fold(
    weights: Mapping[str, Tensor], name: str, norm: str, *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Make one convolution of a convolution without bias and the batch norm after it.

    Args:
        weights: Tensors of the file.
        name: Name of the convolution; a second dimension of 1 filters each channel by itself.
        norm: Name of the batch norm.
        stride: Pixels between outputs.
        dilation: Pixels between inputs of the kernel.
    """
    kernel = weights[f"{name}.weight"]
    gain, bias, mean, variance = (weights[f"{norm}.{part}"] for part in _NORM)
    scale = gain / (variance + EPSILON).sqrt()
    num_out, num_in, side, _ = kernel.shape
    groups = num_out if num_in == 1 else 1
    margin = (side + 1) // 2 if stride == 2 else dilation * (side // 2)
    folded = nn.Conv2d(num_in * groups, num_out, side, stride, margin, dilation, groups)
    folded.load_state_dict(
        {"weight": kernel * scale.view(-1, 1, 1, 1), "bias": bias - mean * scale}
    )
    return folded


def convolve(
    convolution: nn.Conv2d, maps: Float[Tensor, "batch dim_in rows columns"]
) -> Float[Tensor, "batch dim_out rows_out columns_out"]:
    """Compute a convolution; with stride 2 as TensorFlow aligns it (padding "same").

    There the window of the first output of an even side starts at pixel 0 (side 3) or -1 (side 5).
    Torch pads both ends alike: it starts 2 pixels earlier, so that its first output is left out.
    """
    outputs: Tensor = convolution(maps)
    return outputs[..., 1:, 1:] if convolution.stride[0] == 2 else outputs
